// The frame of the page, and its start.

// A view draws (argument, parameters) -> element, or a promise of one; `menu` false: reached by links only.
const VIEWS = [
  {name: "overview", label: "Overview", menu: true, draw: overviewView},
  {name: "figures", label: "Figures", menu: true, draw: figuresView},
  {name: "questions", label: "Questions", menu: true, draw: questionsView},
  {name: "question", parent: "questions", menu: false, draw: questionView},
  {name: "chats", label: "Chats", menu: true, wide: true, draw: chatsView},
  {name: "chat", parent: "chats", menu: false, wide: true, draw: chatView},
  {name: "estimate", label: "Estimate", menu: FIRST.estimates.length > 0, draw: estimateView},
  {name: "comparison", label: "Compare", menu: FIRST.runs.length > 1, draw: comparisonView},
];

function showNavigation(current) {
  const links = VIEWS.filter((view) => view.menu).map((view) =>
    el("a", {href: address(view.name), "aria-current": view.name === (current.parent ?? current.name) ? "page" : null}, view.label));
  document.getElementById("top").replaceChildren(
    el("div", {class: "frame"},
      el("a", {class: "brand", href: address("overview")}, el("span", {class: "mark", "aria-hidden": "true"}), FIRST.title),
      el("nav", {"aria-label": "Views"}, links)));
}

function showFooter() {
  document.getElementById("bottom").append(
    el("div", {class: "frame"}, `Made ${FIRST.made} by chatbench ${FIRST.version}. ${whereItAllLies()}`));
}

function whereItAllLies() {
  if (FIRST.live) return "It contacts only the server on this machine that it came from.";
  if (FIRST.beside.length) return "The folder of this file holds everything it shows; it makes no network requests.";
  return "This file holds everything it shows and makes no network requests.";
}

showFooter();
startRouter().then(startLive);
