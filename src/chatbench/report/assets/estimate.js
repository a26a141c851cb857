// Estimates for new assistants: the answer with its parts, real chats, differences, held-out assistants, and the curve.

function estimateView(argument, parameters) {
  const head = el("div", {class: "head"}, el("h1", {}, "Estimate"), el("p", {class: "lead"},
    "What people would achieve with an assistant that nobody has chatted with, from simulated chats, and real ones where there are some."));
  if (!FIRST.estimates.length) return el("div", {}, head, emptyState("No estimate yet:", "chatbench estimate MODEL --assistant NEW=SPEC"));
  const choices = FIRST.estimates.map((_, at) => String(at));
  const at = chosen(parameters, "of", choices);
  const one = FIRST.estimates[Number(at)];
  return el("div", {}, head,
    choices.length > 1 ? el("div", {class: "controls"}, selectOf("Assistant", choices, at, (value) => { location.hash = address("estimate", "", {of: value}); },
      (each) => `${FIRST.estimates[each].assistant} (${FIRST.estimates[each].model})`)) : null,
    el("p", {class: "note"}, one.assistant_line), answerTable(one), realTable(one), causesTable(one), halfWidthFigure(one), againstTable(one), heldOutTable(one), estimateNotes(one));
}

// A card with a table, or nothing where it has no rows.
function tableCard(title, records, columns, note) {
  if (!records.length) return null;
  return el("section", {class: "card"}, el("h2", {}, title), recordTable(records, columns, title), note ? el("p", {class: "note"}, note) : null);
}

function share(value) {
  return isNumber(value) ? `${number(100 * value, 1)} %` : "undefined";
}

function within(found) {
  return isNumber(found?.value) ? `${share(found.value)} (${number(100 * found.low, 1)} to ${number(100 * found.high, 1)})` : "undefined";
}

function points(value) {
  return isNumber(value) ? `${value > 0 ? "+" : ""}${number(100 * value, 1)}` : "–";
}

function answerTable(one) {
  return tableCard(`Expected accuracy of people with ${one.assistant}`, one.subsets, [
    {key: "subset", label: "Questions of", words: true}, {key: "predicted", label: "People (95 % prediction interval)", text: (r) => within(r.predicted.estimate)},
    {key: "simulated", label: "Simulated", text: (r) => share(r.simulated)}, {key: "questions"}, {key: "chats", label: "Simulated chats"}]);
}

function realTable(one) {
  const rows = one.subsets.filter((r) => r.people).map((r) => ({subset: r.subset, simulated: r.simulated, ...r.people}));
  return tableCard("With real chats", rows, [
    {key: "subset", label: "Questions of", words: true}, {key: "rectified", label: "Rectified", text: (r) => `${within(r.rectified)}${r.loses ? " = people alone" : ""}`},
    {key: "alone", label: "People alone", text: (r) => within(r.alone)}, {key: "simulated", label: "Simulation alone", text: (r) => share(r.simulated)},
    {key: "correlation", label: "PPI correlation", text: (r) => (isNumber(r.correlation) ? number(r.correlation, 2) : "undefined")},
    {key: "answers", label: "Real answers", text: (r) => (isNumber(r.answers) ? `${count(r.answers)} count like ${count(Math.round(r.effective_answers))}` : "–")}]);
}

function causesTable(one) {
  const causes = Object.entries(one.subsets[0]?.predicted.variance_by_cause ?? {}).map(([cause, variance]) => ({cause, variance}));
  const total = causes.reduce((sum, each) => sum + each.variance, 0);
  return tableCard("What the interval is made of", causes, [
    {key: "cause", label: "", words: true}, {key: "variance", label: "sd, points", text: (r) => (r.variance < 0 ? "not above 0" : number(100 * Math.sqrt(r.variance), 1))},
    {key: "share", label: "Share of the variance", text: (r) => (total > 0 ? share(r.variance / total) : "–")}]);
}

function againstTable(one) {
  return tableCard(`${one.assistant} against the known assistants`, one.differences, [
    {key: "assistant", label: "Minus", words: true}, {key: "difference", label: "Difference, points", text: (r) => points(r.difference.value)},
    {key: "interval", label: "95 % interval", text: (r) => (isNumber(r.difference.low) ? `${points(r.difference.low)} to ${points(r.difference.high)}` : "undefined")}]);
}

function heldOutTable(one) {
  return tableCard("Assistants that their simulator had not met", one.held_out, [
    {key: "assistant", label: "Held out", words: true}, {key: "human", label: "People", text: (r) => share(r.human)}, {key: "simulated", label: "Simulated", text: (r) => share(r.simulated)},
    {key: "error", label: "People minus simulated, points", text: (r) => points(r.error)}, {key: "questions"}, {key: "answers"}]);
}

function halfWidthFigure(one) {
  if (!one.curve.length) return null;
  const looks = {"people alone": {colour: "var(--ink)", dash: null}, "with the simulator": {colour: "var(--series-1)", dash: "7,5"}};
  const line = (from) => Plot.lineY(records.filter((r) => r.from === from), {x: "people", y: "half_width", stroke: looks[from].colour, strokeDasharray: looks[from].dash, strokeWidth: 2.5});
  const records = one.curve.flatMap((r) => [{people: r.people, half_width: r.alone, from: "people alone"}, {people: r.people, half_width: r.with_simulator, from: "with the simulator"}]);
  return figureCard({
    title: "Half-width against people",
    says: `Half of the 95 % interval for one assistant, ${one.answers_per_person} answers a person.`,
    file: "half-width",
    records,
    legend: Object.entries(looks).map(([label, {colour, dash}]) => ({label, colour, dash})),
    columns: [{key: "people"}, {key: "half_width"}, {key: "from", words: true}],
    draw: (width) => plot(width, {
      height: 300, marginLeft: 56, marginBottom: 40,
      x: {type: "log", base: 2, label: "People", labelAnchor: "center", labelArrow: "none", ticks: one.curve.map((r) => r.people), tickFormat: (n) => String(n)},
      y: {label: "Half-width, points", labelArrow: "none", transform: (value) => 100 * value, zero: true, nice: true},
      marks: [
        ...gridMarks({y: true}),
        ...Object.keys(looks).map(line),
        Plot.dot(records, {x: "people", y: "half_width", fill: (r) => looks[r.from].colour, r: (r) => (r.from === "people alone" ? 5 : 3)}),
        Plot.tip(records, Plot.pointer({x: "people", y: "half_width", title: (r) => `${r.people} people, ${r.from}: ±${number(100 * r.half_width, 1)}`, ...tip()})),
      ],
    }),
  });
}

function estimateNotes(one) {
  const rho = isNumber(one.correlation) ? number(one.correlation, 3) : `undefined: ${one.correlation.undefined}`;
  const notes = [...one.undefined_parts, `PPI correlation ${rho} (${one.correlation_from}).`, ...one.notes, `Signature ${one.signature.id}.`];
  return el("section", {class: "card"}, el("h2", {}, "How to read it"), el("ul", {class: "notes"}, notes.map((note) => el("li", {}, note))));
}
