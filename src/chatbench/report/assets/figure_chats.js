// Figures of the chats: how long, how they ended, and where the simulator's probability sat.

function distributionPredictors(run) {
  return ["people", run.simulator, "base model"].filter((predictor) => run.distributions.turns[predictor]);
}

// Bars per bin, one colour per predictor; `label(bin)` names a bin.
function distributionFigure(run, {field, title, says, file, label, axis, noun}) {
  const shares = run.distributions[field];
  const predictors = distributionPredictors(run).filter((predictor) => shares[predictor]?.length);
  if (!predictors.length) return null;
  const last = Math.max(...predictors.flatMap((predictor) => shares[predictor].map(([bin]) => bin)));
  const first = Math.min(...predictors.flatMap((predictor) => shares[predictor].map(([bin]) => bin)));
  const bins = d3.range(first, last + 1);
  const records = predictors.flatMap((predictor) => {
    const found = new Map(shares[predictor]);
    return bins.map((bin) => ({predictor, bin, [noun]: label(bin), share: found.get(bin) ?? 0}));
  });
  return figureCard({
    title, says, file: `${run.key}-${file}`, records,
    columns: ["predictor", noun, "share"].map((key) => ({key, words: key !== "share"})),
    legend: predictors.map((predictor) => ({label: `${words(predictor)} (${plural(run.distributions.chats[predictor], "chat")})`, colour: predictorColour(predictor), fill: true})),
    draw: (width) => drawDistribution(records, bins, predictors, width, {label, axis}),
  });
}

function drawDistribution(records, bins, predictors, width, {label, axis}) {
  const every = Math.ceil(bins.length / Math.max(4, Math.floor(width / 46)));
  return plot(width, {
    height: 280, marginLeft: 46, marginBottom: 40,
    fx: {domain: bins, label: axis, labelAnchor: "center", axis: "bottom", padding: 0, tickSize: 0, tickFormat: (bin) => (bins.indexOf(bin) % every ? "" : label(bin))},
    x: {domain: predictors, axis: null, paddingInner: 0.04, paddingOuter: 0.45},
    y: {label: "Share", labelArrow: "none", tickFormat: (v) => percent(v), ticks: 5, nice: true},
    marks: [
      ...gridMarks({y: true}),
      Plot.barY(records, {fx: "bin", x: "predictor", y: "share", fill: (r) => predictorColour(r.predictor)}),
      Plot.ruleY([0], {stroke: "var(--muted)"}),
      Plot.tip(records, Plot.pointerX({fx: "bin", x: "predictor", y: "share", title: (r) => `${words(r.predictor)}\n${label(r.bin)} ${axis.toLowerCase()}\n${percent(r.share, 1)}`, ...tip()})),
    ],
  });
}

function turnsFigure(run) {
  const most = run.distributions.mostTurns;
  return distributionFigure(run, {field: "turns", title: "User turns", says: "How many messages the user wrote, not counting the answer.", file: "turns",
    label: (bin) => (bin >= most ? `${most}+` : String(bin)), axis: "User turns", noun: "turns"});
}

function wordsLabel(run) {
  const lower = run.distributions.wordBins;
  return (bin) => (bin === lower.length - 1 ? `${lower[bin]}+` : lower[bin + 1] - lower[bin] === 1 ? String(lower[bin]) : `${lower[bin]}–${lower[bin + 1] - 1}`);
}

function firstWordsFigure(run) {
  return distributionFigure(run, {field: "firstWords", title: "Length of the first message", says: "In words.", file: "first-message", label: wordsLabel(run), axis: "Words", noun: "words"});
}

function laterWordsFigure(run) {
  return distributionFigure(run, {field: "laterWords", title: "Length of later messages", says: "In words; users’ messages only.", file: "later-messages", label: wordsLabel(run), axis: "Words", noun: "words"});
}

const ENDS = {answered: {label: "answered", colour: "--series-1"}, forced: {label: "answered when forced", colour: "--series-5"},
  no_answer: {label: "no answer, though forced", colour: "--series-2"}, failed: {label: "failed", colour: "--series-6"}};

function terminationFigure(run) {
  const totals = d3.rollup(run.terminations, (rows) => d3.sum(rows, (r) => r.chats), (r) => `${r.predictor}, ${r.assistant}`);
  const records = run.terminations.map((r) => ({...r, who: `${r.predictor}, ${r.assistant}`, share: r.chats / totals.get(`${r.predictor}, ${r.assistant}`)}));
  const kinds = Object.keys(ENDS).filter((end) => records.some((r) => r.termination === end));
  const rows = [...totals.keys()];
  return figureCard({
    title: "How the chats ended",
    says: "For each simulator with each assistant.",
    file: `${run.key}-endings`,
    records,
    columns: ["predictor", "assistant", "termination", "chats", "share"].map((key) => ({key, words: ["predictor", "assistant", "termination"].includes(key)})),
    legend: kinds.map((end) => ({label: ENDS[end].label, colour: `var(${ENDS[end].colour})`, fill: true})),
    draw: (width) => plot(width, {
      height: rows.length * 58 + 50, marginLeft: 14, marginRight: 24, marginBottom: 34, marginTop: 8,
      x: {...SHARE_AXIS, label: null}, y: {domain: rows, axis: null, padding: 0.5},
      marks: [
        Plot.barX(records, Plot.stackX({x: "share", y: "who", fill: (r) => `var(${ENDS[r.termination].colour})`, order: (r) => kinds.indexOf(r.termination), inset: 0.5})),
        Plot.text(rows, {x: 0, y: (who) => who, text: (who) => cut(shownPlain(who), Math.floor(width / 9)), textAnchor: "start", dy: -21}),
        Plot.text(rows, {x: 1, y: (who) => who, text: (who) => plural(totals.get(who), "chat"), textAnchor: "end", dy: -21, fill: "var(--muted)"}),
        Plot.tip(records, Plot.pointer(Plot.stackX({x: "share", y: "who", order: (r) => kinds.indexOf(r.termination),
          title: (r) => shownPlain(`${r.who}\n${ENDS[r.termination].label}: ${plural(r.chats, "chat")} (${percent(r.share, 1)})`), ...tip()}))),
      ],
    }),
  });
}

function answeringFigure(run) {
  const predictors = run.probabilities.predictors ?? {};
  const records = Object.entries(predictors).flatMap(([predictor, found]) => found.answering.map(([turn, probability, chats]) => ({predictor, turn, probability, chats})));
  if (!records.length) return null;
  return figureCard({
    title: "Probability of answering",
    says: "The probability that the simulator gave to answering now rather than asking more, by turn; mean over the chats that got that far.",
    file: `${run.key}-answering`,
    records,
    columns: ["predictor", "turn", "probability", "chats"].map((key) => ({key, words: key === "predictor"})),
    legend: Object.keys(predictors).map((predictor) => ({label: words(predictor), colour: predictorColour(predictor), symbol: PREDICTOR_LOOKS[predictor]?.symbol ?? "circle"})),
    draw: (width) => plot(width, {
      height: 280, marginLeft: 50, marginBottom: 40,
      x: {label: "Turn of the simulator", labelAnchor: "center", labelArrow: "none", ticks: d3.range(1, d3.max(records, (r) => r.turn) + 1), tickFormat: "d"},
      y: {...SHARE_AXIS, label: "Probability of an answer", labelArrow: "none"},
      marks: [
        ...gridMarks({y: true}),
        Plot.line(records, {x: "turn", y: "probability", z: "predictor", stroke: (r) => predictorColour(r.predictor), strokeWidth: 2}),
        Plot.dot(records, {x: "turn", y: "probability", fill: (r) => predictorColour(r.predictor), stroke: "var(--card)", r: (r) => Math.max(2.5, Math.min(8, Math.sqrt(r.chats) / 5))}),
        Plot.tip(records, Plot.pointer({x: "turn", y: "probability", title: (r) => `${words(r.predictor)}, turn ${r.turn}\n${percent(r.probability, 1)}\n${plural(r.chats, "chat")}`, ...tip()})),
      ],
    }),
  });
}

function rightFigure(run) {
  const bins = run.probabilities.bins;
  const records = Object.entries(run.probabilities.predictors ?? {}).flatMap(([predictor, found]) =>
    found.right.map(([bin, share]) => ({predictor, from: bin / bins, to: (bin + 1) / bins, share, chats: found.chats})));
  if (!records.length) return null;
  const predictors = [...new Set(records.map((r) => r.predictor))];
  return figureCard({
    title: "Probability of the right letter",
    says: "At the end of each chat: the probability that the simulator gave to the right letter, given that it answers. Mass in the middle is chance that drawing the answers adds.",
    file: `${run.key}-right-letter`,
    records,
    columns: ["predictor", "from", "to", "share", "chats"].map((key) => ({key, words: key === "predictor"})),
    legend: predictors.map((predictor) => ({label: `${words(predictor)} (${plural(records.find((r) => r.predictor === predictor).chats, "chat")})`, colour: predictorColour(predictor), fill: true})),
    draw: (width) => plot(width, {
      height: 120 + 160 * predictors.length, marginLeft: 50, marginBottom: 40,
      x: {...SHARE_AXIS, label: "Probability of the right letter", labelAnchor: "center", labelArrow: "none"},
      y: {label: "Share of chats", labelArrow: "none", tickFormat: (v) => percent(v), ticks: 5}, fy: {label: null, axis: null},
      marks: [
        ...gridMarks({y: true}),
        Plot.rectY(records, {fy: "predictor", x1: "from", x2: "to", y: "share", fill: (r) => predictorColour(r.predictor), inset: 0.5}),
        Plot.ruleY([0], {stroke: "var(--muted)"}),
        Plot.tip(records, Plot.pointerX({fy: "predictor", x1: "from", x2: "to", y: "share", title: (r) => `${words(r.predictor)}\n${percent(r.from)} to ${percent(r.to)}\n${percent(r.share, 1)} of chats`, ...tip()})),
      ],
    }),
  });
}
