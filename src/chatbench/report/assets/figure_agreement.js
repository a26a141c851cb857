// Figures of how well simulated and real accuracy agree: by condition, by bin, by split.

function stratumLabel(run, stratum) {
  const known = run.scores.strata.find((each) => each.name === stratum);
  return known ? words(known.label) : "everything";
}

function subsetAccuracyFigure(run) {
  const predictors = ["people", run.simulator, "base model"];
  const names = assistants();
  const records = run.scores.figures.filter((f) => f.metric === "accuracy" && predictors.includes(f.predictor) && names.includes(f.assistant) && isNumber(f.mean))
    .map((f) => ({stratum: stratumLabel(run, f.stratum), assistant: f.assistant, predictor: f.predictor, accuracy: f.mean, low: f.low, high: f.high, error: f.error}));
  if (!records.length) return null;
  const present = predictors.filter((predictor) => records.some((r) => r.predictor === predictor));
  return figureCard({
    title: "Accuracy by assistant, condition and subset",
    says: "How often people, and simulated users, were right: means over questions and splits.",
    file: `${run.key}-accuracy-by-stratum`,
    wide: true,
    records,
    columns: ["stratum", "assistant", "predictor", "accuracy", "low", "high", "error"].map((key) => ({key, words: ["stratum", "assistant", "predictor"].includes(key)})),
    legend: present.map((predictor) => ({label: predictor, colour: predictorColour(predictor), symbol: PREDICTOR_LOOKS[predictor].symbol})),
    draw: (width) => drawStrata(records, present, width, "accuracy", SHARE_AXIS),
  });
}

// Marks of every predictor per stratum, one panel per assistant.
function drawStrata(records, predictors, width, value, axis) {
  const strata = [...new Set(records.map((r) => r.stratum))];
  const names = [...new Set(records.map((r) => r.assistant))].sort();
  const beside = width >= 190 * names.length + 130;
  const narrow = beside && width < 300 * names.length + 130;
  const facet = beside ? {fx: "assistant"} : {fy: "assistant"};
  const reading = (r) => shownPlain(`${r.stratum}, ${r.assistant}\n${r.predictor}: ${percent(r[value], 1)}`);
  return plot(width, {
    height: (beside ? 1 : names.length) * (strata.length * 30 + (beside ? 20 : 44)) + 70,
    marginLeft: Math.min(140, 24 + 7 * Math.max(...strata.map((stratum) => Math.min(stratum.length, 16)))),
    marginRight: 24,
    marginBottom: 36,
    x: {...axis, label: null, ...(narrow ? {ticks: HALVES} : {})}, y: {domain: strata, label: null, tickSize: 0, tickFormat: (stratum) => cut(shownPlain(stratum), 18)},
    fx: {axis: null, padding: narrow ? 0.16 : 0.08}, fy: {axis: null, padding: 0.12}, marginTop: 34,
    symbol: {domain: predictors, range: predictors.map((predictor) => PREDICTOR_LOOKS[predictor].symbol)},
    marks: [
      ...gridMarks({x: true, ticks: QUARTERS}),
      panelNames(names, beside ? "fx" : "fy"),
      Plot.ruleY(records, Plot.groupY({x1: "min", x2: "max"}, {y: "stratum", x1: value, x2: value, ...facet, stroke: "var(--line)", strokeWidth: 2})),
      Plot.dot(records, {x: value, y: "stratum", ...facet, symbol: "predictor", fill: (r) => predictorColour(r.predictor), stroke: "var(--card)", strokeWidth: 0.8, r: 5.5}),
      Plot.tip(records, Plot.pointer({x: value, y: "stratum", ...facet, title: reading, ...tip()})),
    ],
  });
}

function agreementByPartFigure(run) {
  const metrics = ["pearson", "mae"];
  const whose = assistantsOf(run)[0];
  const all = run.scores.figures.filter((f) => f.assistant === whose && f.predictor === run.simulator && metrics.includes(f.metric) && isNumber(f.mean));
  if (!all.some((f) => f.stratum)) return null;
  return changeable({metric: "pearson"}, (now, set) => {
    const records = all.filter((f) => f.metric === now.metric).map((f) => ({stratum: stratumLabel(run, f.stratum), metric: METRICS[f.metric].label,
      value: f.mean, low: f.low, high: f.high, ceiling: f.ceiling, assistant: whose}));
    return figureCard({
      title: "Agreement by condition and subset",
      says: `${run.name}, ${words(run.simulator)}, ${assistantLabel(whose)}; with 95 % interval. The upright tick is the human ceiling.`,
      file: `${run.key}-${now.metric}-by-stratum`,
      controls: el("div", {class: "controls"}, control("metric", selectOf("Metric", metrics, now.metric, set("metric"), (metric) => METRICS[metric].label))),
      records,
      columns: ["stratum", "metric", "value", "low", "high", "ceiling", "assistant"].map((key) => ({key, words: ["stratum", "metric", "assistant"].includes(key)})),
      draw: (width) => drawIntervals(records, width, METRICS[now.metric].label),
    });
  });
}

function drawIntervals(records, width, label) {
  const reading = (r) => shownPlain(`${r.stratum}\n${r.metric}: ${number(r.value, 3)}${isNumber(r.low) ? `\n${number(r.low, 3)} to ${number(r.high, 3)}` : ""}${isNumber(r.ceiling) ? `\nceiling: ${number(r.ceiling, 3)}` : ""}`);
  const strata = [...new Set(records.map((r) => r.stratum))];
  return plot(width, {
    height: strata.length * 32 + 70, marginBottom: 36,
    marginLeft: Math.min(140, 24 + 7 * Math.max(...strata.map((stratum) => Math.min(stratum.length, 16)))),
    x: {label, labelAnchor: "center", labelArrow: "none", nice: true, zero: true}, y: {domain: strata, label: null, tickSize: 0, tickFormat: (stratum) => cut(shownPlain(stratum), 18)},
    marks: [
      ...gridMarks({x: true}),
      Plot.ruleY(records.filter((r) => isNumber(r.low)), {y: "stratum", x1: "low", x2: "high", stroke: "var(--series-1)", strokeOpacity: 0.4, strokeWidth: 5}),
      Plot.tickX(records.filter((r) => isNumber(r.ceiling)), {x: "ceiling", y: "stratum", stroke: "var(--ink)", strokeWidth: 2, inset: 6}),
      Plot.dot(records, {x: "value", y: "stratum", r: 5.5, fill: "var(--series-1)", stroke: "var(--card)"}),
      Plot.tip(records, Plot.pointerY({x: "value", y: "stratum", title: reading, ...tip()})),
    ],
  });
}

function calibrationFigure(run) {
  const wanted = [run.simulator, "base model", "regression on user alone and AI alone", ...predictorsLike("AI alone, ").slice(0, 1)];
  const predictors = wanted.filter((predictor) => run.calibration[predictor]);
  const records = predictors.flatMap((predictor) => run.calibration[predictor].map((bin) => ({predictor, ...bin})));
  if (!records.length) return null;
  const look = (predictor) => PREDICTOR_LOOKS[predictor] ?? {colour: OTHER_COLOURS[wanted.indexOf(predictor) - 2], symbol: SYMBOLS[wanted.indexOf(predictor) + 1]};
  const colour = (r) => `var(${look(r.predictor).colour})`;
  const reading = (r) => `${words(r.predictor)}\npredicted: ${percent(r.predicted)}\npeople: ${percent(r.people)}${isNumber(r.low) ? ` (${percent(r.low)} to ${percent(r.high)})` : ""}\n${plural(r.pairs, "(question, assistant) pair")}`;
  return figureCard({
    title: "Calibration",
    says: "Predicted accuracy against how often people were right. Bins of predicted accuracy, with 95 % intervals of their means.",
    file: `${run.key}-calibration`,
    records,
    columns: ["predictor", "from", "to", "predicted", "people", "low", "high", "pairs", "questions"].map((key) => ({key, words: key === "predictor"})),
    legend: predictors.map((predictor) => ({label: words(predictor), colour: `var(${look(predictor).colour})`, symbol: look(predictor).symbol})),
    draw: (width) => plot(width, {
      height: Math.min(width, 460), marginLeft: 50, marginBottom: 40,
      x: {...SHARE_AXIS, label: "Predicted accuracy", labelAnchor: "center", labelArrow: "none"}, y: {...SHARE_AXIS, label: "People’s accuracy", labelArrow: "none"},
      symbol: {domain: predictors, range: predictors.map((predictor) => look(predictor).symbol)},
      marks: [
        ...gridMarks({x: true, y: true, ticks: QUARTERS}),
        Plot.line([[0, 0], [1, 1]], {stroke: "var(--muted)", strokeDasharray: "4,4"}),
        Plot.line(records, {x: "predicted", y: "people", z: "predictor", stroke: colour, strokeOpacity: 0.6, strokeWidth: 1.5}),
        Plot.ruleX(records.filter((r) => isNumber(r.low)), {x: "predicted", y1: "low", y2: "high", stroke: colour, strokeOpacity: 0.4}),
        Plot.dot(records, {x: "predicted", y: "people", symbol: "predictor", fill: colour, stroke: "var(--card)", r: 5}),
        Plot.tip(records, Plot.pointer({x: "predicted", y: "people", title: reading, ...tip()})),
      ],
    }),
  });
}

const SPLIT_METRICS = ["pearson", "spearman", "mae", "rmse", "bias", "ece", "perplexity", "bits_per_byte", "bleu", "rouge1", "rouge2", "rougeL"];

function splitsFigure(run) {
  const whose = assistantsOf(run)[0];
  const shown = (metric) => run.scores.figures.filter((f) => !f.stratum && f.metric === metric && isNumber(f.mean)
    && f.assistant === (TEXT_COLUMNS.includes(metric) ? ALL : whose)
    && ([run.simulator, "base model", "people"].includes(f.predictor) || (f.kind === "ceiling" && !isVariant(run, f.predictor))));
  const metrics = SPLIT_METRICS.filter((metric) => shown(metric).length);
  if (!metrics.length) return null;
  return changeable({metric: metrics[0]}, (now, set) => {
    const figures = shown(now.metric);
    const records = figures.flatMap((f) => f.perSplit.map((value, at) => ({split: run.scores.splits[at], predictor: f.predictor, value, mean: f.mean}))).filter((r) => isNumber(r.value));
    const look = (predictor) => PREDICTOR_LOOKS[predictor] ?? {colour: "--series-3", symbol: "diamond"};
    const predictors = figures.map((f) => f.predictor);
    return figureCard({
      title: "Scores over splits",
      says: "Each split has its own model, tested on its own questions. Lines are the means.",
      file: `${run.key}-${now.metric}-over-splits`,
      controls: el("div", {class: "controls"}, control("metric", selectOf("Metric", metrics, now.metric, set("metric"), (metric) => METRICS[metric].label))),
      records,
      columns: ["split", "predictor", "value", "mean"].map((key) => ({key, words: key === "split" || key === "predictor"})),
      legend: predictors.map((predictor) => ({label: words(predictor), colour: `var(${look(predictor).colour})`, symbol: look(predictor).symbol})),
      draw: (width) => drawSplits(records, predictors, look, width, now.metric),
    });
  });
}

function drawSplits(records, predictors, look, width, metric) {
  const colour = (r) => `var(${look(r.predictor).colour})`;
  const means = predictors.map((predictor) => records.find((r) => r.predictor === predictor)).filter(Boolean);
  return plot(width, {
    height: 330, marginLeft: 56, marginBottom: 36,
    x: {type: "point", label: null, tickFormat: (split) => split.replace("split_", width < 420 ? "" : "split ")},
    y: {label: METRICS[metric].label, labelArrow: "none", nice: true, zero: metric !== "perplexity", type: metric === "perplexity" ? "log" : "linear"},
    symbol: {domain: predictors, range: predictors.map((predictor) => look(predictor).symbol)},
    marks: [
      ...gridMarks({y: true}),
      Plot.ruleY(means, {y: "mean", stroke: colour, strokeOpacity: 0.6, strokeDasharray: "5,4"}),
      Plot.dot(records, {x: "split", y: "value", symbol: "predictor", fill: colour, stroke: "var(--card)", r: 5.5}),
      Plot.tip(records, Plot.pointer({x: "split", y: "value", title: (r) => `${words(r.split)}, ${r.predictor}\n${METRICS[metric].label}: ${metricText(r.value, metric)}\nmean: ${metricText(r.mean, metric)}`, ...tip()})),
    ],
  });
}
