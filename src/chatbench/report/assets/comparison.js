// Two or more runs: each metric of both, the paired difference, its interval and p-value.

function comparisonView(argument, parameters) {
  const found = FIRST.comparison;
  const head = el("div", {class: "head"}, el("h1", {}, "Comparison"), el("p", {class: "lead"},
    "Every run answers the same questions, so what is hard about a question affects all runs and cancels out."));
  if (!found) return el("div", {}, head, emptyState("Fewer than two runs have been scored:", "chatbench eval-chatbench MODEL"));
  const pairs = [...new Set(found.figures.map((f) => `${f.first}\n${f.second}`))].map((pair) => pair.split("\n"));
  const choices = pairs.map((_, at) => String(at));
  const pair = Number(chosen(parameters, "pair", choices));
  const every = [...new Set(found.figures.map((f) => f.assistant))];
  const names = every.length > 2 ? every : [ALL]; // one assistant is all of them
  const whose = chosen(parameters, "assistant", [names.includes(MEAN) ? MEAN : ALL, ...names.filter((name) => name !== MEAN && name !== ALL), ALL]);
  const go = (changes) => { location.hash = address("comparison", "", {pair, assistant: whose, ...changes}); };
  const [first, second] = pairs[pair];
  const records = found.figures.filter((f) => f.first === first && f.second === second && f.assistant === (TEXT_COLUMNS.includes(f.metric) ? ALL : whose))
    .map((f) => ({metric: METRICS[f.metric]?.label ?? f.metric, key: f.metric, first: known(f.first_value), second: known(f.second_value), difference: known(f.difference),
      low: known(f.interval.low), high: known(f.interval.high), p: known(f.p), holm: known(f.p_holm)}));
  return el("div", {}, head,
    el("div", {class: "controls"},
      pairs.length > 1 ? selectOf("Runs", choices, String(pair), (value) => go({pair: value}), (at) => pairs[at].join(" and ")) : null,
      names.length > 1 ? selectOf("Correlation and error of", [...new Set([whose, MEAN, ...names, ALL])].filter((name) => names.includes(name)).sort(), whose, (value) => go({assistant: value}), assistantLabel) : null),
    comparisonTable(records, first, second, pairs.length > 1),
    differenceFigure(records, first, second),
    el("section", {class: "card"}, el("h2", {}, "How to read it"), el("ul", {class: "notes"}, found.notes.map((note) => el("li", {}, note)))));
}

function comparisonTable(records, first, second, several) {
  const p = (value) => (isNumber(value) ? (value < 0.001 ? "< 0.001" : number(value, 3)) : "–");
  const columns = [
    {key: "metric", label: "", words: true, text: (r) => `${r.metric} ${METRICS[r.key]?.better === "lower" ? "↓" : METRICS[r.key]?.better === "higher" ? "↑" : ""}`},
    {key: "first", label: first, text: (r) => metricText(r.first, r.key)}, {key: "second", label: second, text: (r) => metricText(r.second, r.key)},
    {key: "difference", label: "Difference", text: (r) => el("span", {class: verdict(r)}, signed(r.difference))},
    {key: "low", label: "95 % interval", text: (r) => (isNumber(r.low) ? `${signed(r.low)} to ${signed(r.high)}` : "–")},
    {key: "p", label: "p", text: (r) => p(r.p)}, ...(several ? [{key: "holm", label: "p, Holm", text: (r) => p(r.holm)}] : []),
  ];
  return el("section", {class: "card"}, el("div", {class: "figure-head"}, el("h2", {}, `${first} minus ${second}`),
    el("div", {class: "buttons"}, el("button", {type: "button", class: "quiet", onclick: () =>
      download("comparison.csv", "text/csv", csvText(records, ["metric", "first", "second", "difference", "low", "high", "p", "holm"].map((key) => ({key}))))}, "CSV"))),
    recordTable(records, columns, `${first} minus ${second}`),
    el("p", {class: "note"}, "Coloured where the interval excludes zero: green if the first run is better, red if the second is."));
}

function signed(value) {
  return isNumber(value) ? `${value > 0 ? "+" : ""}${number(value, 3)}` : "–";
}

function verdict(r) {
  if (!isNumber(r.low) || (r.low <= 0 && r.high >= 0)) return null;
  const better = METRICS[r.key]?.better;
  if (better !== "higher" && better !== "lower") return null;
  return (r.difference > 0) === (better === "higher") ? "good" : "bad";
}

function differenceFigure(records, first, second) {
  const drawn = records.filter((r) => isNumber(r.difference) && isNumber(r.low));
  if (!drawn.length) return null;
  return figureCard({
    title: "Paired differences",
    says: `${first} minus ${second}, with 95 % intervals.`,
    file: "paired-differences",
    records: drawn,
    columns: ["metric", "first", "second", "difference", "low", "high", "p"].map((key) => ({key, words: key === "metric"})),
    draw: (width) => plot(width, {
      height: drawn.length * 34 + 70, marginLeft: width < 480 ? 84 : 170, marginBottom: 36,
      x: {label: "Difference", labelAnchor: "center", labelArrow: "none", nice: true}, y: {domain: drawn.map((r) => r.metric), label: null, tickSize: 0, tickFormat: (label, at) => (width < 480 && METRICS[drawn[at].key]?.short) || label},
      marks: [
        ...gridMarks({x: true}),
        Plot.ruleX([0], {stroke: "var(--ink)"}),
        Plot.ruleY(drawn, {y: "metric", x1: "low", x2: "high", stroke: "var(--series-1)", strokeOpacity: 0.45, strokeWidth: 5}),
        Plot.dot(drawn, {x: "difference", y: "metric", r: 5.5, fill: "var(--series-1)", stroke: "var(--card)"}),
        Plot.tip(drawn, Plot.pointerY({x: "difference", y: "metric", title: (r) => `${r.metric}: ${signed(r.difference)}\n${signed(r.low)} to ${signed(r.high)}`, ...tip()})),
      ],
    }),
  });
}
