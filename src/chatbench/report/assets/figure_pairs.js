// Figures of single questions: one accuracy against another.

const QUARTERS = [0, 0.25, 0.5, 0.75, 1];
const HALVES = [0, 0.5, 1];
const SHARE_AXIS = {domain: [0, 1], ticks: QUARTERS, tickFormat: (v) => percent(v), clamp: true};
const EVERY = "all";

function accuracyFigure(run, parameters) {
  const predictors = [run.simulator, "base model"].filter((predictor) => accuraciesOf(predictor, run.key).size);
  if (!predictors.length) return null;
  const state = {predictor: predictors[0], subset: chosen(parameters, "subset", [EVERY, ...subsets()])};
  return changeable(state, (now, set) => {
    const records = pairRecords(pairsOf(accuraciesOf(now.predictor, run.key), accuraciesOf("people")), now.subset, "simulated", "people");
    return figureCard({
      title: "Human and simulated accuracy per question",
      says: "Each mark is a question with one assistant: how often simulated users were right, and how often people were. On the line both agree. Thin lines are 95 % intervals from the number of chats and of answers.",
      file: `${run.key}-accuracy`,
      wide: true,
      controls: el("div", {class: "controls"},
        predictors.length > 1 ? control("predictor", selectOf("Simulator", predictors, now.predictor, set("predictor"), words)) : null,
        subsets().length > 1 ? control("subset", selectOf("Subset", [EVERY, ...subsets()], now.subset, set("subset"), words)) : null),
      records,
      columns: pairColumns("simulated", "people"),
      draw: (width) => drawPairs(records, width, {x: "simulated", y: "people", xLabel: `Right in simulated chats (${now.predictor})`, yLabel: "People right with the AI", colour: predictorColour(now.predictor)}),
    });
  });
}

function aloneFigure(run) {
  const methods = predictorsLike("AI alone, ");
  if (!methods.length) return null;
  return changeable({method: methods[0]}, (now, set) => {
    const records = pairRecords(pairsOf(accuraciesOf(now.method), accuraciesOf("people")), EVERY, "ai_alone", "people");
    return figureCard({
      title: "AI alone and people with the AI",
      says: "The same questions, with the accuracy of the AI alone in place of the simulator’s: what a benchmark without users would report.",
      file: `${run.key}-ai-alone`,
      wide: true,
      controls: el("div", {class: "controls"}, control("method", selectOf("Method", methods, now.method, set("method"), (name) => words(name.replace("AI alone, ", ""))))),
      records,
      columns: pairColumns("ai_alone", "people"),
      draw: (width) => drawPairs(records, width, {x: "ai_alone", y: "people", xLabel: "AI alone right", yLabel: "People right with the AI", colour: "var(--series-4)"}),
    });
  });
}

function pairRecords(pairs, subset, x, y) {
  return pairs.filter((pair) => subset === EVERY || pair.question.subset === subset).map((pair) => ({
    question_id: pair.question.id, question: questionLabel(pair.question), subset: pair.question.subset, assistant: pair.assistant,
    [x]: pair.x.accuracy, [`${x}_low`]: pair.x.low, [`${x}_high`]: pair.x.high, [`${x}_count`]: pair.x.count,
    [y]: pair.y.accuracy, [`${y}_low`]: pair.y.low, [`${y}_high`]: pair.y.high, [`${y}_count`]: pair.y.count,
  }));
}

function pairColumns(x, y) {
  const link = (record) => el("a", {href: address("question", record.question_id)}, record.question_id);
  return [{key: "question_id", label: "question", words: true, text: link}, {key: "subset", words: true}, {key: "assistant", words: true},
    ...[x, y].flatMap((name) => [name, `${name}_low`, `${name}_high`, `${name}_count`].map((key) => ({key})))];
}

// One square per assistant, as many beside each other as there is room for.
function drawPairs(records, width, {x, y, xLabel, yLabel, colour}) {
  const names = [...new Set(records.map((r) => r.assistant))].sort();
  const [left, right, top, bottom, gapX, gapY] = [52, 24, 34, 40, 44, 44];
  const most = Math.max(1, Math.min(names.length, Math.floor((width - left - right + gapX) / (230 + gapX))));
  const down = Math.ceil(names.length / most);
  const across = Math.ceil(names.length / down);
  const side = Math.min(480, (width - left - right - (across - 1) * gapX) / across);
  const place = new Map(names.map((name, at) => [name, {name, fx: at % across, fy: Math.floor(at / across)}]));
  const facet = {fx: (r) => place.get(r.assistant).fx, fy: (r) => place.get(r.assistant).fy};
  const spot = (r) => `${r.assistant}|${r[x]}|${r[y]}`;
  const crowd = d3.rollup(records, (found) => found.length - 1, spot);
  const others = (r) => (crowd.get(spot(r)) ? `\nand ${plural(crowd.get(spot(r)), "more question")} at this point` : "");
  const reading = (r) => shownPlain(`${r.question}\n${r.assistant}\n${y}: ${percent(r[y])} of ${r[`${y}_count`]}\n${words(x)}: ${percent(r[x])} of ${r[`${x}_count`]}${others(r)}`);
  const axis = {...SHARE_AXIS, ...(side < 300 ? {ticks: HALVES} : {})};
  const svg = plot(Math.min(width, left + right + across * side + (across - 1) * gapX), {
    height: down * side + (down - 1) * gapY + top + bottom,
    marginLeft: left, marginRight: right, marginTop: top, marginBottom: bottom,
    x: {...axis, label: xLabel, labelAnchor: "center", labelArrow: "none"},
    y: {...axis, label: yLabel, labelArrow: "none"},
    fx: {axis: null, paddingInner: gapX / (side + gapX), paddingOuter: 0, round: false}, fy: {axis: null, paddingInner: gapY / (side + gapY), paddingOuter: 0, round: false},
    marks: [
      ...gridMarks({x: true, y: true, ticks: QUARTERS}),
      Plot.text([...place.values()], {fx: "fx", fy: "fy", text: (d) => shownPlain(d.name), frameAnchor: "top", dy: -19, fontWeight: 550}),
      Plot.line([[0, 0], [1, 1]], {stroke: "var(--muted)", strokeDasharray: "4,4"}),
      Plot.ruleX(records, {x, y1: `${y}_low`, y2: `${y}_high`, ...facet, stroke: colour, strokeOpacity: 0.13}),
      Plot.ruleY(records, {y, x1: `${x}_low`, x2: `${x}_high`, ...facet, stroke: colour, strokeOpacity: 0.13}),
      Plot.dot(records, {x, y, ...facet, r: 4.5, fill: colour, fillOpacity: 0.55, stroke: "var(--card)", strokeWidth: 0.7}),
      Plot.dot(records, Plot.pointer({x, y, ...facet, r: 6, stroke: "var(--ink)", strokeWidth: 1.5, maxRadius: 24})),
      Plot.tip(records, Plot.pointer({x, y, ...facet, title: reading, maxRadius: 24, ...tip()})),
    ],
  });
  return opening(svg);
}

// A click opens the question that is pointed at.
function opening(svg) {
  svg.classList.add("opens");
  svg.addEventListener("click", () => { if (svg.value) location.hash = address("question", svg.value.question_id); });
  return svg;
}

// "The beginning of the quest… (assistant)", in so many letters.
function rowName(r, letters) {
  return shownPlain(`${cut(r.question, Math.max(12, letters - r.assistant.length - 3))} (${cut(r.assistant, letters - 12)})`);
}

// The questions that the simulator gets most wrong, or most right where people do not.
const FURTHEST = 12;

function furthestFigure(run) {
  const all = pairRecords(pairsOf(accuraciesOf(run.simulator, run.key), accuraciesOf("people")), EVERY, "simulated", "people");
  const records = all.map((r) => ({...r, apart: r.simulated - r.people, row: `${r.question_id}|${r.assistant}`}))
    .sort((a, b) => Math.abs(b.apart) - Math.abs(a.apart)).slice(0, FURTHEST);
  if (!records.length) return null;
  const label = (row) => records.find((r) => r.row === row).question;
  return figureCard({
    title: "Questions furthest apart",
    says: "Where simulated users and people differ most. Click one to read its chats.",
    file: `${run.key}-furthest`,
    records,
    columns: [...pairColumns("simulated", "people"), {key: "apart"}],
    legend: ["people", run.simulator].map((predictor) => ({label: predictor, colour: predictorColour(predictor), symbol: PREDICTOR_LOOKS[predictor].symbol})),
    draw: (width) => {
      const svg = plot(width, {
        height: records.length * 38 + 50, marginLeft: 14, marginRight: 22, marginBottom: 34, marginTop: 12,
        x: {...SHARE_AXIS, label: null}, y: {domain: records.map((r) => r.row), axis: null},
        marks: [
          ...gridMarks({x: true, ticks: QUARTERS}),
          Plot.text(records, {x: 0, y: "row", text: (r) => rowName(r, Math.floor(width / 6.6)), textAnchor: "start", dy: -9, fontSize: 11, fill: "var(--muted)"}),
          Plot.ruleY(records, {y: "row", x1: "people", x2: "simulated", stroke: "var(--line)", strokeWidth: 3, dy: 6}),
          Plot.dot(records, {y: "row", x: "people", symbol: "square", fill: predictorColour("people"), r: 4.5, dy: 6}),
          Plot.dot(records, {y: "row", x: "simulated", fill: predictorColour(run.simulator), r: 5, dy: 6}),
          Plot.tip(records, Plot.pointerY({x: "simulated", y: "row", title: (r) => shownPlain(`${label(r.row)}\n${r.assistant}\npeople: ${percent(r.people)} of ${r.people_count}\nsimulated: ${percent(r.simulated)} of ${r.simulated_count}`), ...tip()})),
        ],
      });
      return opening(svg);
    },
  });
}
