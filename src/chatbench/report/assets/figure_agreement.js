// Figures of how well simulated and real accuracy agree: by part, by bin, by split.

function partLabel(run, part) {
  const known = run.scores.parts.find((each) => each.name === part);
  return known ? words(known.label) : "everything";
}

function subsetAccuracyFigure(run) {
  const sources = ["people", "fine-tuned", "base model"];
  const names = assistants();
  const records = run.scores.figures.filter((f) => f.metric === "accuracy" && sources.includes(f.source) && names.includes(f.assistant) && isNumber(f.mean))
    .map((f) => ({part: partLabel(run, f.part), assistant: f.assistant, source: f.source, accuracy: f.mean, low: f.low, high: f.high, error: f.error}));
  if (!records.length) return null;
  const present = sources.filter((source) => records.some((r) => r.source === source));
  return figureCard({
    title: "Accuracy by assistant, condition and subset",
    says: "How often people, and simulated users, were right: means over questions and splits.",
    file: `${run.key}-accuracy-by-part`,
    wide: true,
    records,
    columns: ["part", "assistant", "source", "accuracy", "low", "high", "error"].map((key) => ({key, words: ["part", "assistant", "source"].includes(key)})),
    legend: present.map((source) => ({label: source, colour: sourceColour(source), symbol: SOURCE_LOOKS[source].symbol})),
    draw: (width) => drawParts(records, present, width, "accuracy", SHARE_AXIS),
  });
}

// Marks of every source per part, one panel per assistant.
function drawParts(records, sources, width, value, axis) {
  const parts = [...new Set(records.map((r) => r.part))];
  const names = [...new Set(records.map((r) => r.assistant))].sort();
  const beside = width >= 190 * names.length + 130;
  const narrow = beside && width < 300 * names.length + 130;
  const facet = beside ? {fx: "assistant"} : {fy: "assistant"};
  const reading = (r) => shownPlain(`${r.part}, ${r.assistant}\n${r.source}: ${percent(r[value], 1)}`);
  return plot(width, {
    height: (beside ? 1 : names.length) * (parts.length * 30 + 20) + 70,
    marginLeft: Math.min(140, 24 + 7 * Math.max(...parts.map((part) => Math.min(part.length, 16)))),
    marginRight: 24,
    marginBottom: 36,
    x: {...axis, label: null, ...(narrow ? {ticks: HALVES} : {})}, y: {domain: parts, label: null, tickSize: 0, tickFormat: (part) => cut(shownPlain(part), 18)},
    fx: {axis: null, padding: narrow ? 0.16 : 0.08}, fy: {axis: null, padding: 0.12}, marginTop: 34,
    symbol: {domain: sources, range: sources.map((source) => SOURCE_LOOKS[source].symbol)},
    marks: [
      ...gridMarks({x: true, ticks: QUARTERS}),
      panelNames(names, beside ? "fx" : "fy"),
      Plot.ruleY(records, Plot.groupY({x1: "min", x2: "max"}, {y: "part", x1: value, x2: value, ...facet, stroke: "var(--line)", strokeWidth: 2})),
      Plot.dot(records, {x: value, y: "part", ...facet, symbol: "source", fill: (r) => sourceColour(r.source), stroke: "var(--card)", strokeWidth: 0.8, r: 5.5}),
      Plot.tip(records, Plot.pointer({x: value, y: "part", ...facet, title: reading, ...tip()})),
    ],
  });
}

function agreementByPartFigure(run) {
  const metrics = ["pearson", "mae"];
  const whose = assistantsOf(run)[0];
  const all = run.scores.figures.filter((f) => f.assistant === whose && f.source === "fine-tuned" && metrics.includes(f.metric) && isNumber(f.mean));
  if (!all.some((f) => f.part)) return null;
  return changeable({metric: "pearson"}, (now, set) => {
    const records = all.filter((f) => f.metric === now.metric).map((f) => ({part: partLabel(run, f.part), metric: METRICS[f.metric].label,
      value: f.mean, low: f.low, high: f.high, ceiling: f.ceiling, assistant: whose}));
    return figureCard({
      title: "Agreement by condition and subset",
      says: `The fine-tuned simulator, ${assistantLabel(whose)}; with 95 % interval. The upright tick is the human ceiling.`,
      file: `${run.key}-${now.metric}-by-part`,
      controls: el("div", {class: "controls"}, control("metric", selectOf("Figure", metrics, now.metric, set("metric"), (metric) => METRICS[metric].label))),
      records,
      columns: ["part", "metric", "value", "low", "high", "ceiling", "assistant"].map((key) => ({key, words: ["part", "metric", "assistant"].includes(key)})),
      draw: (width) => drawIntervals(records, width, METRICS[now.metric].label),
    });
  });
}

function drawIntervals(records, width, label) {
  const reading = (r) => shownPlain(`${r.part}\n${r.metric}: ${number(r.value, 3)}${isNumber(r.low) ? `\n${number(r.low, 3)} to ${number(r.high, 3)}` : ""}${isNumber(r.ceiling) ? `\nceiling: ${number(r.ceiling, 3)}` : ""}`);
  const parts = [...new Set(records.map((r) => r.part))];
  return plot(width, {
    height: parts.length * 32 + 70, marginBottom: 36,
    marginLeft: Math.min(140, 24 + 7 * Math.max(...parts.map((part) => Math.min(part.length, 16)))),
    x: {label, labelAnchor: "center", labelArrow: "none", nice: true, zero: true}, y: {domain: parts, label: null, tickSize: 0, tickFormat: (part) => cut(shownPlain(part), 18)},
    marks: [
      ...gridMarks({x: true}),
      Plot.ruleY(records.filter((r) => isNumber(r.low)), {y: "part", x1: "low", x2: "high", stroke: "var(--series-1)", strokeOpacity: 0.4, strokeWidth: 5}),
      Plot.tickX(records.filter((r) => isNumber(r.ceiling)), {x: "ceiling", y: "part", stroke: "var(--ink)", strokeWidth: 2, inset: 6}),
      Plot.dot(records, {x: "value", y: "part", r: 5.5, fill: "var(--series-1)", stroke: "var(--card)"}),
      Plot.tip(records, Plot.pointerY({x: "value", y: "part", title: reading, ...tip()})),
    ],
  });
}

function calibrationFigure(run) {
  const wanted = ["fine-tuned", "base model", "regression on user alone and AI alone", ...sourcesLike("AI alone, ").slice(0, 1)];
  const sources = wanted.filter((source) => run.calibration[source]);
  const records = sources.flatMap((source) => run.calibration[source].map((bin) => ({source, ...bin})));
  if (!records.length) return null;
  const look = (source) => SOURCE_LOOKS[source] ?? {colour: OTHER_COLOURS[wanted.indexOf(source) - 2], symbol: SYMBOLS[wanted.indexOf(source) + 1]};
  const colour = (r) => `var(${look(r.source).colour})`;
  const reading = (r) => `${words(r.source)}\npredicted: ${percent(r.predicted)}\npeople: ${percent(r.people)}${isNumber(r.low) ? ` (${percent(r.low)} to ${percent(r.high)})` : ""}\n${plural(r.cells, "pair")} of question and assistant`;
  return figureCard({
    title: "Calibration",
    says: "Where a source says that users are right so often, how often were people? Bins of predicted accuracy, with 95 % intervals of their means.",
    file: `${run.key}-calibration`,
    records,
    columns: ["source", "from", "to", "predicted", "people", "low", "high", "cells", "questions"].map((key) => ({key, words: key === "source"})),
    legend: sources.map((source) => ({label: words(source), colour: `var(${look(source).colour})`, symbol: look(source).symbol})),
    draw: (width) => plot(width, {
      height: Math.min(width, 460), marginLeft: 50, marginBottom: 40,
      x: {...SHARE_AXIS, label: "Predicted accuracy", labelAnchor: "center", labelArrow: "none"}, y: {...SHARE_AXIS, label: "People’s accuracy", labelArrow: "none"},
      symbol: {domain: sources, range: sources.map((source) => look(source).symbol)},
      marks: [
        ...gridMarks({x: true, y: true, ticks: QUARTERS}),
        Plot.line([[0, 0], [1, 1]], {stroke: "var(--muted)", strokeDasharray: "4,4"}),
        Plot.line(records, {x: "predicted", y: "people", z: "source", stroke: colour, strokeOpacity: 0.6, strokeWidth: 1.5}),
        Plot.ruleX(records.filter((r) => isNumber(r.low)), {x: "predicted", y1: "low", y2: "high", stroke: colour, strokeOpacity: 0.4}),
        Plot.dot(records, {x: "predicted", y: "people", symbol: "source", fill: colour, stroke: "var(--card)", r: 5}),
        Plot.tip(records, Plot.pointer({x: "predicted", y: "people", title: reading, ...tip()})),
      ],
    }),
  });
}

const SPLIT_METRICS = ["pearson", "spearman", "mae", "rmse", "bias", "ece", "perplexity", "bits_per_byte", "bleu", "rouge1", "rouge2", "rougeL"];

function splitsFigure(run) {
  const whose = assistantsOf(run)[0];
  const shown = (metric) => run.scores.figures.filter((f) => !f.part && f.metric === metric && isNumber(f.mean)
    && f.assistant === (TEXT_COLUMNS.includes(metric) ? ALL : whose)
    && (["fine-tuned", "base model", "people"].includes(f.source) || (f.kind === "ceiling" && !isVariant(run, f.source))));
  const metrics = SPLIT_METRICS.filter((metric) => shown(metric).length);
  if (!metrics.length) return null;
  return changeable({metric: metrics[0]}, (now, set) => {
    const figures = shown(now.metric);
    const records = figures.flatMap((f) => f.perSplit.map((value, at) => ({split: run.scores.splits[at], source: f.source, value, mean: f.mean}))).filter((r) => isNumber(r.value));
    const look = (source) => SOURCE_LOOKS[source] ?? {colour: "--series-3", symbol: "diamond"};
    const sources = figures.map((f) => f.source);
    return figureCard({
      title: "Scores over splits",
      says: "Each split is a model of its own, tested on questions of its own. Lines are the means.",
      file: `${run.key}-${now.metric}-over-splits`,
      controls: el("div", {class: "controls"}, control("metric", selectOf("Figure", metrics, now.metric, set("metric"), (metric) => METRICS[metric].label))),
      records,
      columns: ["split", "source", "value", "mean"].map((key) => ({key, words: key === "split" || key === "source"})),
      legend: sources.map((source) => ({label: words(source), colour: `var(${look(source).colour})`, symbol: look(source).symbol})),
      draw: (width) => drawSplits(records, sources, look, width, now.metric),
    });
  });
}

function drawSplits(records, sources, look, width, metric) {
  const colour = (r) => `var(${look(r.source).colour})`;
  const means = sources.map((source) => records.find((r) => r.source === source)).filter(Boolean);
  return plot(width, {
    height: 330, marginLeft: 56, marginBottom: 36,
    x: {type: "point", label: null, tickFormat: (split) => split.replace("split_", width < 420 ? "" : "split ")},
    y: {label: METRICS[metric].label, labelArrow: "none", nice: true, zero: metric !== "perplexity", type: metric === "perplexity" ? "log" : "linear"},
    symbol: {domain: sources, range: sources.map((source) => look(source).symbol)},
    marks: [
      ...gridMarks({y: true}),
      Plot.ruleY(means, {y: "mean", stroke: colour, strokeOpacity: 0.6, strokeDasharray: "5,4"}),
      Plot.dot(records, {x: "split", y: "value", symbol: "source", fill: colour, stroke: "var(--card)", r: 5.5}),
      Plot.tip(records, Plot.pointer({x: "split", y: "value", title: (r) => `${words(r.split)}, ${r.source}\n${METRICS[metric].label}: ${metricText(r.value, metric)}\nmean: ${metricText(r.mean, metric)}`, ...tip()})),
    ],
  });
}
