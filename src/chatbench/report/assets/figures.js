// The figures: which there are, and what each is drawn from. How they are drawn is in the files named figure_*.js.

function figuresView(argument, parameters) {
  const keys = FIRST.runs.map((run) => run.key);
  const key = chosen(parameters, "run", keys);
  const run = FIRST.runs.find((each) => each.key === key);
  const groups = [
    ["Agreement", run.scores ? [accuracyFigure(run, parameters), aloneFigure(run), subsetAccuracyFigure(run), agreementByPartFigure(run), calibrationFigure(run), splitsFigure(run), furthestFigure(run)] : []],
    ["Chats", run.distributions ? [turnsFigure(run), firstWordsFigure(run), laterWordsFigure(run), terminationFigure(run), answeringFigure(run), rightFigure(run)] : []],
    ["Training", run.curves.length ? [lossFigure(run), perplexityFigure(run)] : []],
  ];
  return el("div", {},
    el("div", {class: "head"}, el("h1", {}, "Figures"),
      el("p", {class: "lead"}, "Point at a mark to read it; click a question’s mark to open the question. Each figure can be saved as SVG, and its data as CSV."),
      keys.length > 1 ? el("div", {class: "controls"}, selectOf("Run", keys, key, (value) => { location.hash = address("figures", "", {run: value}); },
        (value) => FIRST.runs.find((each) => each.key === value).name)) : null),
    warningOf(run),
    groups.map(([title, figures]) => el("section", {class: "figure-group"}, el("h2", {class: "group-title"}, title),
      figures.filter(Boolean).length ? el("div", {class: "figures"}, figures.filter(Boolean)) : noFigures(title, run))));
}

function noFigures(title, run) {
  if (title === "Agreement") return emptyState("No scores yet:", `chatbench eval-chatbench ${run.name}`);
  if (title === "Chats") return emptyState("No simulated chats yet:", `chatbench simulate ${run.name} --assistant SPEC`);
  return emptyState("Nothing was trained here:", `chatbench finetune ${run.name}`);
}

// A figure that the reader can change: `build(state)` gives a card, built again whenever a control changes the state.
function changeable(state, build) {
  const place = el("div", {class: "changeable"});
  const show = () => place.replaceChildren(build(state, (name) => (value) => { state[name] = value; show(); refocus(place, name); }));
  show();
  place.classList.toggle("full", place.firstElementChild.classList.contains("full"));
  return place;
}

// The control that was used is a new element now; it gets the focus back.
function refocus(place, name) {
  place.querySelector(`[data-control="${name}"] select`)?.focus();
}

function control(name, element) {
  element.setAttribute("data-control", name);
  return element;
}
