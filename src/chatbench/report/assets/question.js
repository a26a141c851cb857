// The questions as a list, and one question with everything that is known about it.

function questionsView(argument, parameters) {
  const orders = Object.keys(QUESTION_ORDERS);
  const state = {search: parameters.get("search") ?? "", subset: chosen(parameters, "subset", [EVERY, ...subsets()]), order: chosen(parameters, "order", orders)};
  const place = el("div", {});
  const rows = questionRows();
  const fill = () => place.replaceChildren(questionTable(matchingQuestions(rows, state), rows.length));
  const set = (name) => (value) => {
    state[name] = value;
    fill();
    rememberParameters({search: state.search, subset: state.subset === EVERY ? "" : state.subset, order: state.order === orders[0] ? "" : state.order});
  };
  fill();
  return el("div", {}, el("div", {class: "head"}, el("h1", {}, "Questions"),
    el("p", {class: "lead"}, `The ${plural(rows.length, "question")} that were held out in at least one split.`)),
    rows.length ? el("section", {class: "card"},
      el("div", {class: "controls"},
        el("label", {}, "Search", el("input", {type: "search", value: state.search, oninput: (event) => set("search")(event.target.value)})),
        subsets().length > 1 ? selectOf("Subset", [EVERY, ...subsets()], state.subset, set("subset"), words) : null,
        selectOf("Order", orders, state.order, set("order"), words)),
      place) : emptyState("No questions: the prepared splits were not found when this page was made.", "chatbench report --data FOLDER"));
}

const QUESTION_ORDERS = {
  by_name: null,
  furthest_apart_first: (row) => (isNumber(row.people) && isNumber(row.simulated) ? -Math.abs(row.people - row.simulated) : 2),
  hardest_for_people_first: (row) => row.people ?? 2,
  hardest_for_the_simulator_first: (row) => row.simulated ?? 2,
};

function matchingQuestions(rows, {search, subset, order}) {
  const wanted = search.toLowerCase();
  const found = rows.filter((row) => (subset === EVERY || row.subset === subset) && (!wanted || row.haystack.includes(wanted)));
  return QUESTION_ORDERS[order] ? d3.sort(found, QUESTION_ORDERS[order]) : found;
}

// The run whose simulated accuracies the list shows: the first that was scored.
function listedRun() {
  return FIRST.runs.find((run) => run.scores);
}

// Each question with the mean accuracies over assistants.
function questionRows() {
  const run = listedRun();
  const columns = {people: accuraciesOf("people"), simulated: run ? accuraciesOf(run.simulator, run.key) : new Map()};
  const names = assistants();
  const mean = (cells, number) => {
    const known = names.map((name) => cells.get(`${number}|${name}`)).filter(Boolean);
    return known.length ? d3.mean(known, (cell) => cell.accuracy) : null;
  };
  return FIRST.questions.map((question, at) => ({
    id: question.id, question: questionLabel(question), subset: question.subset, haystack: `${question.id} ${question.text}`.toLowerCase(),
    people: mean(columns.people, at), simulated: mean(columns.simulated, at),
  }));
}

const SHOWN_QUESTIONS = 500;

function questionTable(rows, all) {
  if (!rows.length) return emptyState("No question matches.");
  const simulated = FIRST.runs.length > 1 && listedRun() ? `Simulated right (${listedRun().name})` : "Simulated right";
  const share = (key) => ({key, label: key === "people" ? "People right" : simulated, text: (row) => percent(row[key])});
  return el("div", {},
    recordTable(rows.slice(0, SHOWN_QUESTIONS), [
      {key: "question", label: "Question", words: true, text: (row) => el("a", {href: address("question", row.id)}, row.question)},
      {key: "subset", label: "Subset", words: true, text: (row) => words(row.subset)}, share("people"), share("simulated"),
    ], "Questions"),
    el("p", {class: "note"}, rows.length > SHOWN_QUESTIONS ? `The first ${SHOWN_QUESTIONS} of ${count(rows.length)}; search for others.` : `${count(rows.length)} of ${count(all)}`));
}

async function questionView(id, parameters) {
  const number = FIRST.questions.findIndex((question) => question.id === id);
  if (number < 0) {
    return el("section", {class: "card"}, el("h1", {}, "No such question"), el("p", {}, "This page has no question ", el("code", {}, id), ". ", el("a", {href: address("questions")}, "All questions")));
  }
  const question = FIRST.questions[number];
  const neighbour = (step, label) => {
    const other = FIRST.questions[number + step];
    return other ? el("a", {href: address("question", other.id)}, label) : el("span", {class: "muted"}, label);
  };
  return el("div", {},
    el("div", {class: "head"},
      el("div", {class: "crumbs"}, el("a", {href: address("questions")}, "Questions"), el("span", {}, neighbour(-1, "← previous"), " \u00a0 ", neighbour(1, "next →"))),
      el("h1", {}, question.subset ? `${words(question.subset)}: ${question.id}` : question.id)),
    el("div", {class: "columns question"}, askedCard(question), accuracyCard(number)),
    el("section", {}, el("div", {class: "figure-head"}, el("h2", {}, "Chats about this question"),
      el("a", {href: address("chats", "", {question: id})}, "Open in the list")), await chatsOfQuestion(id)));
}

function askedCard(question) {
  if (!question.text) return el("section", {class: "card"}, el("h2", {}, "Question"), emptyState("Its text is not in this page: the study was no longer where it was when the splits were prepared."));
  return el("section", {class: "card"}, el("h2", {}, "Question"), writtenText(question.text),
    el("ol", {class: "asked"}, question.options.map((option, at) => {
      const letter = String.fromCharCode(65 + at);
      const right = letter === question.answer;
      return el("li", {class: right ? "right" : null}, el("span", {class: "letter"}, letter), el("span", {class: "written", dir: "auto"}, option),
        right ? el("span", {class: "chip good"}, "right answer") : null);
    })), rightAnswers(question));
}

// Who was right how often, one row per predictor, a pair of columns per assistant.
function accuracyCard(number) {
  const names = assistants();
  const rows = accuracyRows().map(([label, cells, className]) => [label, names.map((name) => cells.get(`${number}|${name}`)), className])
    .filter(([, found]) => found.some(Boolean));
  if (!rows.length) return el("section", {class: "card"}, el("h2", {}, "Accuracy"), emptyState("No scores yet:", `chatbench eval-chatbench ${FIRST.runs[0]?.name ?? "MODEL"}`));
  const head = el("tr", {}, el("td", {}), names.map((name) => el("th", {scope: "col"}, name)));
  const body = rows.map(([label, found, className]) => el("tr", {class: className}, el("th", {scope: "row"}, label), found.map((cell) =>
    cell ? el("td", {}, shareBar(cell), percent(cell.accuracy), el("small", {}, cell.count ? `of ${count(cell.count)}` : "")) : el("td", {class: "missing"}, "–"))));
  return el("section", {class: "card"}, el("h2", {}, "Accuracy by assistant"),
    el("p", {class: "note"}, "Share of right answers, and out of how many answers, chats or samples; the bar is the 95 % interval."),
    scrolling(el("table", {class: "scores accuracy"}, el("thead", {}, head), el("tbody", {}, body)), "Accuracy by assistant"));
}

function accuracyRows() {
  const simulators = FIRST.runs.flatMap((run) => [run.simulator, "base model"].map((predictor) =>
    [FIRST.runs.length > 1 ? `${run.name}, ${predictor}` : `simulated, ${predictor}`, accuraciesOf(predictor, run.key), predictor === run.simulator ? "ours" : null]));
  return [
    ["people with the AI", accuraciesOf("people"), "ours"],
    ...conditions().map((condition) => [words(condition), accuraciesOf("people", "", condition), "sub"]),
    ...simulators,
    ["people alone", accuraciesOf("user alone"), null],
    ...predictorsLike("AI alone, ").map((predictor) => [words(predictor), accuraciesOf(predictor), null]),
  ];
}

// The interval as a band from 0 to 100 %, with the share as a mark.
function shareBar(cell) {
  const svg = svgElement("svg", {viewBox: "0 0 100 10", preserveAspectRatio: "none", class: "share", "aria-hidden": "true"});
  svg.append(svgElement("rect", {y: 4, width: 100, height: 2, fill: "var(--grid)"}));
  if (cell.count) svg.append(svgElement("rect", {x: 100 * cell.low, y: 3, width: 100 * (cell.high - cell.low), height: 4, fill: "var(--band)"}));
  svg.append(svgElement("rect", {x: Math.min(98.5, Math.max(0, 100 * cell.accuracy - 0.75)), width: 1.5, height: 10, fill: "var(--ink)"}));
  return svg;
}
