// What was run, the main table, and each score between its floor and the human ceiling.

const TEXT_COLUMNS = ["perplexity", "bits_per_byte", "bleu", "rouge1", "rouge2", "rougeL"];
const AGREEMENT_COLUMNS = ["pearson", "mae"];
const ALL = "all";
const MEAN = "mean of assistants";
const KINDS = [["simulator", "Simulators"], ["people", "People"], ["ceiling", "Human ceiling"], ["baseline", "Baselines, without a simulator"]];

function overviewView(argument, parameters) {
  const scored = FIRST.runs.filter((run) => run.scores);
  const page = el("div", {}, overviewHead(), scored.map(warningOf), FIRST.runs.filter((run) => !run.scores).map(unscoredRun));
  if (scored.length) page.append(...scored.map(boundsFigure).filter(Boolean), mainTable(scored, parameters), ...scored.map(factsCard));
  if (FIRST.missing.length) page.append(missingCard());
  return page;
}

// What is to be known before any of the run's scores is read, where there is such a thing.
function warningOf(run) {
  return run.scores?.warning ? el("p", {class: "warning"}, run.scores.warning) : null;
}

function missingCard() {
  return el("section", {class: "card"}, el("h2", {}, "Not in this page"), el("ul", {class: "notes"}, FIRST.missing.map((text) => el("li", {}, text))));
}

function overviewHead() {
  const names = FIRST.runs.map((run) => run.name).join(", ").replace(/, ([^,]*)$/, " and $1");
  const scored = FIRST.runs.find((run) => run.scores);
  const splits = scored?.scores.splits.length;
  const says = scored
    ? `How well ${names} ${FIRST.runs.length === 1 ? "plays" : "play"} the user: simulated chats compared with what people did on ${plural(FIRST.questions.length, "held-out question")}, over ${plural(splits, "split")}.`
    : `How well ${names} ${FIRST.runs.length === 1 ? "plays" : "play"} the user. There are no scores yet.`;
  return el("div", {class: "head"}, el("h1", {}, FIRST.study ? `${names} on ${FIRST.study}` : names), el("p", {class: "lead"}, says));
}

function unscoredRun(run) {
  const chats = run.terminations.length > 0;
  return el("section", {class: "card"}, el("h2", {}, run.name),
    chats ? emptyState("Its chats have not been scored yet:", `chatbench eval-chatbench ${run.name}`)
      : emptyState("No simulated chats yet:", `chatbench simulate ${run.name} --assistant SPEC`),
    run.perplexity.length ? recordTable(run.perplexity, [{key: "split", words: true, text: (r) => words(r.split)}, {key: "predictor", words: true},
      ...["perplexity", "bits_per_byte"].map((metric) => ({key: metric, label: METRICS[metric].label, text: (r) => metricText(r[metric], metric)}))], "Perplexity") : null,
    run.curves.length ? el("p", {class: "note"}, "Its loss curves are under ", el("a", {href: address("figures")}, "Figures"), ".") : null);
}

// The figures of a run's whole, by (assistant, predictor, metric).
function figureOf(run, assistant, predictor, metric) {
  return run.scores.figures.find((f) => !f.stratum && f.assistant === assistant && f.predictor === predictor && f.metric === metric);
}

function assistantsOf(run) {
  const names = [...new Set(run.scores.figures.filter((f) => f.metric === "mae" && !f.stratum).map((f) => f.assistant))];
  const single = names.filter((name) => name !== ALL && name !== MEAN).sort();
  return names.includes(MEAN) ? [MEAN, ...single, ALL] : [...single, ALL].slice(0, single.length > 1 ? undefined : 1);
}

function assistantLabel(name) {
  return name === ALL ? "all pairs pooled" : name;
}

// Where a select stands: what the address says, if it is one of the choices.
function chosen(parameters, name, choices) {
  const wanted = parameters.get(name);
  return choices.includes(wanted) ? wanted : choices[0];
}

function selectOf(label, choices, value, onchange, text = (choice) => choice) {
  return el("label", {}, label, el("select", {onchange: (event) => onchange(event.target.value)},
    choices.map((choice) => el("option", {value: choice, selected: choice === value}, shownPlain(text(choice))))));
}

function checkOf(label, value, onchange) {
  return el("label", {class: "check"}, el("input", {type: "checkbox", checked: value, onchange: (event) => onchange(event.target.checked)}), label);
}

// ---- the main table

function mainTable(runs, parameters) {
  const choices = assistantsOf(runs[0]);
  const state = {assistant: chosen(parameters, "assistant", choices), splits: parameters.has("splits"), every: parameters.has("every")};
  const place = el("div", {});
  const fill = () => place.replaceChildren(el("p", {class: "note scored"}, scoredText(runs, state.assistant)),
    scrolling(mainTableElement(runs, state), "The main table"));
  const show = () => {
    fill();
    rememberParameters({assistant: state.assistant === choices[0] ? "" : state.assistant, splits: state.splits ? "1" : "", every: state.every ? "1" : ""});
  };
  const set = (name) => (value) => { state[name] = value; show(); };
  fill();
  return el("section", {class: "card"}, el("h2", {}, "Scores"),
    el("p", {class: "note"}, "Means over splits; below each, its 95 % interval where there is one, else ± the standard error over splits. ",
      "Perplexity and overlap are of people’s turns with all assistants; correlation and error are of accuracy per question."),
    el("div", {class: "controls"},
      choices.length > 1 ? selectOf("Correlation and error of", choices, state.assistant, set("assistant"), assistantLabel) : null,
      checkOf("Each split", state.splits, set("splits")),
      checkOf("Every row", state.every, set("every")),
      el("button", {type: "button", class: "quiet", onclick: () => download("scores.csv", "text/csv", scoresCsv(runs))}, "CSV")),
    place);
}

function mainTableElement(runs, state) {
  const columns = [...AGREEMENT_COLUMNS, ...TEXT_COLUMNS];
  const head = el("tr", {}, el("td", {}), columns.map((metric) => el("th", {scope: "col", title: METRICS[metric].label}, METRICS[metric].short ?? METRICS[metric].label,
    el("span", {class: "arrow", title: `${METRICS[metric].better} is better`}, METRICS[metric].better === "lower" ? " ↓" : " ↑"))));
  const body = KINDS.flatMap(([kind, title]) => {
    const rows = tableRows(runs, kind, state).filter((row) => row.cells.some(Boolean));
    return rows.length ? [groupRow(title, columns.length + 1), ...rows.flatMap((row) => rowElements(row, state, runs))] : [];
  });
  return el("table", {class: "scores main"}, el("thead", {}, head), el("tbody", {}, body, publishedRows(columns.length + 1)));
}

// How many questions the simulators are scored on; of several assistants together, pairs are counted.
function scoredText(runs, assistant) {
  const together = assistant === MEAN || assistant === ALL;
  const counts = runs.map((run) => figureOf(run, together ? ALL : assistant, run.simulator, "questions")?.mean).filter(isNumber);
  if (!counts.length) return "No question could be scored.";
  const ends = [...new Set([Math.min(...counts), Math.max(...counts)].map((each) => number(each, Number.isInteger(each) ? 0 : 1)))];
  return `${ends.join(" to ")} ${together && assistants().length > 1 ? "pairs of question and assistant" : "questions"} scored per split`;
}

function groupRow(title, span) {
  return el("tr", {class: "group"}, el("th", {colspan: span, scope: "rowgroup"}, el("span", {}, title)));
}

// The rows of a kind: a simulator's per run, everything else once.
function tableRows(runs, kind, state) {
  const owners = kind === "simulator" ? runs : runs.slice(0, 1);
  return owners.flatMap((run) => {
    const predictors = [...new Set(run.scores.figures.filter((f) => f.kind === kind && !f.stratum).map((f) => f.predictor))];
    return predictors.filter((predictor) => state.every || !isVariant(run, predictor)).map((predictor) => ({
      run,
      predictor,
      label: kind === "simulator" && runs.length > 1 ? `${run.name}, ${words(predictor)}` : words(predictor),
      ours: predictor === run.simulator,
      cells: [...AGREEMENT_COLUMNS.map((metric) => figureOf(run, state.assistant, predictor, metric)),
        ...TEXT_COLUMNS.map((metric) => figureOf(run, ALL, predictor, metric))],
    }));
  });
}

// Rows beside the point: invalid answers dropped, only the first chats, ceilings of other numbers of chats.
function isVariant(run, predictor) {
  if (predictor.startsWith("ceiling, ")) return predictor !== `ceiling, ${run.scores.chats === 1 ? "1 chat" : `${run.scores.chats} chats`}`;
  return predictor.endsWith(", invalid dropped") || predictor.includes(", first ");
}

function rowElements(row, state, runs) {
  const splits = state.splits ? row.run.scores.splits.map((split, at) => el("tr", {class: "splits"}, el("th", {scope: "row"}, words(split)),
    row.cells.map((figure) => el("td", {}, figure ? metricText(figure.perSplit[at], figure.metric) : "")))) : [];
  return [el("tr", {class: row.ours ? "ours" : null}, el("th", {scope: "row"}, row.label), row.cells.map(scoreCell)), ...splits];
}

function scoreCell(figure) {
  if (!figure) return el("td", {class: "missing"}, "–");
  if (figure.mean === null) return el("td", {class: "missing", title: figure.why}, "undefined");
  const metric = figure.metric;
  const below = isNumber(figure.low) ? range(figure, metric)
    : isNumber(figure.error) && figure.error > 0 ? `± ${errorText(figure.error, figure.mean, metric)}` : null;
  return el("td", {}, metricText(figure.mean, metric), below ? el("small", {}, below) : null);
}

// Of another study, or where nobody asked for them, they are no reference.
function publishedRows(span) {
  if (!FIRST.published) return [];
  const {assistants, rows} = FIRST.published;
  const pair = (row, at) => assistants.map((name) => number(row.scores[name][at], 2)).join(" / ");
  return [groupRow(`Published on ChatBench, not computed here (${assistants.join(" / ")})`, span),
    ...rows.map((row) => el("tr", {class: "published"}, el("th", {scope: "row"}, row.method),
      el("td", {}, pair(row, 0)), el("td", {}, pair(row, 1)), TEXT_COLUMNS.map(() => el("td", {class: "missing"}, "–"))))];
}

function scoresCsv(runs) {
  const columns = ["run", "assistant", "predictor", "kind", "metric", "mean", "low", "high", "standard_error", "floor", "ceiling", "undefined_because"].map((key) => ({key}));
  const records = runs.flatMap((run) => run.scores.figures.filter((f) => !f.stratum).map((f) => ({run: run.name, assistant: f.assistant,
    predictor: f.predictor, kind: f.kind, metric: f.metric, mean: f.mean, low: f.low, high: f.high, standard_error: f.error,
    floor: f.floor, ceiling: f.ceiling, undefined_because: f.why})));
  return csvText(records, columns);
}

// ---- scores between floor and ceiling

const BOUNDED = ["pearson", "spearman", "mae", "rmse", "bleu", "rouge1", "rouge2", "rougeL"];

function boundsFigure(run) {
  const records = BOUNDED.flatMap((metric) => {
    const assistant = TEXT_COLUMNS.includes(metric) ? ALL : assistantsOf(run)[0];
    const figure = figureOf(run, assistant, run.simulator, metric);
    const score = figure ? normalised(figure.mean, figure) : null;
    if (score === null) return [];
    const ends = isNumber(figure.low) ? [normalised(figure.low, figure), normalised(figure.high, figure)].sort((a, b) => a - b) : [null, null];
    return [{metric: METRICS[metric].label, score: figure.mean, low: figure.low, high: figure.high, floor: figure.floor,
      floor_of: words(figure.floorPredictor), ceiling: figure.ceiling, normalised: score, normalised_low: ends[0], normalised_high: ends[1], key: metric}];
  });
  if (!records.length) return null;
  return figureCard({
    title: FIRST.runs.length > 1 ? `${run.name}: normalised scores` : "Normalised scores",
    says: "Each score of the simulator between its floor (the best baseline, or the base model) and the human ceiling (as well as other people agree with these people). The bar is the 95 % interval; an arrowhead stands for a score, or an end of the interval, beyond the scale. Perplexity has no ceiling, for nobody knows how predictable people are.",
    file: `${run.key}-floor-to-ceiling`,
    wide: true,
    records,
    columns: ["metric", "score", "low", "high", "floor", "floor_of", "ceiling", "normalised"].map((key) => ({key, words: key === "metric" || key === "floor_of",
      text: key === "normalised" ? (r) => percent(r.normalised) : undefined})),
    draw: (width) => drawBounds(records, width),
  });
}

function drawBounds(records, width) {
  const narrow = width < 560;
  const edge = (value) => Math.max(-0.5, Math.min(1.25, value));
  const y = {domain: records.map((r) => r.metric), label: null, padding: 0.45, tickSize: 0};
  return plot(width, {
    height: (narrow ? 62 : 44) * records.length + 60,
    marginLeft: narrow ? 8 : 170,
    marginRight: narrow ? 8 : 20,
    marginTop: narrow ? 38 : 30,
    marginBottom: 20,
    x: {domain: [-0.56, 1.32], axis: null},
    y: {...y, axis: narrow ? null : "left"},
    marks: [
      Plot.ruleY(records, {y: "metric", x1: 0, x2: 1, stroke: "var(--line)", strokeWidth: 1.5}),
      Plot.ruleX([0, 1], {stroke: "var(--muted)", strokeDasharray: "2,3"}),
      Plot.ruleY(records.filter((r) => r.normalised_low !== null), {y: "metric", x1: (r) => edge(r.normalised_low), x2: (r) => edge(r.normalised_high), stroke: "var(--series-1)", strokeOpacity: 0.4, strokeWidth: 6}),
      Plot.dot(records.filter((r) => edge(r.normalised) === r.normalised), {y: "metric", x: "normalised", r: 6, fill: "var(--series-1)", stroke: "var(--card)", strokeWidth: 1.5}),
      Plot.dot(records.filter((r) => edge(r.normalised) !== r.normalised), {y: "metric", x: (r) => edge(r.normalised), symbol: "triangle", rotate: (r) => (r.normalised < 0 ? -90 : 90), r: 6, fill: "var(--series-1)"}),
      ...[[-0.5, (r) => r.normalised_low, -90], [1.25, (r) => r.normalised_high, 90]].map(([end, value, rotate]) =>
        Plot.dot(records.filter((r) => value(r) !== null && (end < 0 ? value(r) < end : value(r) > end)),
          {y: "metric", x: end, symbol: "triangle", rotate, r: 4.5, fill: "var(--series-1)", fillOpacity: 0.7})),
      Plot.text(records, {y: "metric", x: (r) => edge(r.normalised), text: (r) => metricText(r.score, r.key), dy: -14, fontWeight: 650, fill: "var(--ink)", stroke: "var(--card)", strokeWidth: 4}),
      narrow ? Plot.text(records, {y: "metric", x: -0.56, text: "metric", textAnchor: "start", dy: -29, fill: "var(--muted)"}) : null,
      Plot.text(records, {y: "metric", x: 0, text: (r) => metricText(r.floor, r.key), dy: 14, fill: "var(--muted)", stroke: "var(--card)", strokeWidth: 4, fontSize: 11}),
      Plot.text(records, {y: "metric", x: 1, text: (r) => metricText(r.ceiling, r.key), dy: 14, fill: "var(--muted)", stroke: "var(--card)", strokeWidth: 4, fontSize: 11}),
      Plot.text([[0, "floor"], [1, "human ceiling"]], {x: (d) => d[0], text: (d) => d[1], frameAnchor: "top", dy: -20, fill: "var(--muted)", fontWeight: 550}),
    ].filter(Boolean),
  });
}

// ---- what was run

function factsCard(run) {
  const {facts, notes, signature, line} = run.scores;
  return el("section", {class: "card"}, el("h2", {}, FIRST.runs.length > 1 ? `What was run: ${run.name}` : "What was run"),
    el("dl", {class: "facts"}, facts.map(([label, sentence]) => [el("dt", {}, label), el("dd", {}, sentence)])),
    el("details", {}, el("summary", {}, `Signature ${signature} and notes`),
      el("ul", {class: "notes"}, notes.map((note) => el("li", {}, note))),
      el("p", {}, el("code", {}, line))));
}
