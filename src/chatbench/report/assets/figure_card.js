// A figure with its title, what it says, a legend, its data as a table, and both as files.

// Predictors always have the same colour and the same sign, so that no figure depends on colour alone.
const PREDICTOR_LOOKS = {
  people: {colour: "--series-6", symbol: "square"},
  "fine-tuned": {colour: "--series-1", symbol: "circle"},
  "base model": {colour: "--series-2", symbol: "triangle"},
};
const OTHER_COLOURS = ["--series-3", "--series-4", "--series-5", "--series-6"];
const SYMBOLS = ["circle", "triangle", "square", "diamond", "cross", "star"];

function predictorColour(predictor) {
  return `var(${PREDICTOR_LOOKS[predictor]?.colour ?? "--series-3"})`;
}

// Nth colour of a series that is not a predictor.
function seriesColour(at) {
  return `var(--series-${(at % 6) + 1})`;
}

// figureCard({title, says, draw: (width) => SVG element, legend: [{label, colour, symbol|dash}], records, columns, file,
// controls: element, wide}). Drawn when it comes near the window, and again when its width changes.
function figureCard(figure) {
  const place = el("div", {class: "plot"});
  const card = el("figure", {class: `card figure${figure.wide ? " full" : ""}`},
    el("div", {class: "figure-head"}, el("h2", {}, figure.title), figureButtons(figure, place)),
    figure.says ? el("figcaption", {}, figure.says) : null,
    figure.controls ?? null,
    place,
    figure.legend ? legendOf(figure.legend) : null,
    figure.records?.length ? tableOnDemand(figure) : null);
  let width = 0;
  const drawNow = () => {
    const now = Math.round(place.clientWidth);
    if (!now || Math.abs(now - width) < 8) return;
    width = now;
    place.replaceChildren(drawn(figure, width));
  };
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    drawNow();
    new ResizeObserver(drawNow).observe(place);
  }, {rootMargin: "600px"});
  seen.observe(place);
  window.addEventListener("beforeprint", drawNow);
  return card;
}

function drawn(figure, width) {
  const svg = figure.draw(width);
  if (svg instanceof SVGElement) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", shownPlain(`${figure.title}. ${figure.says ?? ""}`));
    // Plot names its marks, which elements without a role may not be.
    svg.querySelectorAll("g[aria-label]").forEach((mark) => mark.setAttribute("role", "group"));
  }
  return svg;
}

function figureButtons(figure, place) {
  return el("div", {class: "buttons"},
    el("button", {type: "button", class: "quiet", "aria-label": `${figure.title}: download as SVG`, onclick: () => {
      const svg = place.querySelector("svg");
      if (svg) download(`${figure.file}.svg`, "image/svg+xml", standaloneSvg(svg, figure));
    }}, "SVG"),
    el("button", {type: "button", class: "quiet", "aria-label": `${figure.title}: download its data as CSV`, onclick: () =>
      download(`${figure.file}.csv`, "text/csv", csvText(figure.records, figure.columns))}, "CSV"));
}

function tableOnDemand(figure) {
  const box = el("details", {ontoggle: () => {
    if (box.open && box.childElementCount === 1) {
      const shownRecords = figure.records.slice(0, 300);
      box.append(recordTable(shownRecords, figure.columns, `${figure.title}: the data`));
      if (shownRecords.length < figure.records.length) {
        box.append(el("p", {class: "note"}, `The first 300 of ${count(figure.records.length)} rows; the CSV file has all.`));
      }
    }
  }}, el("summary", {}, "The data as a table"));
  return box;
}

function legendOf(entries) {
  return el("ul", {class: "legend"}, entries.map((entry) => el("li", {}, legendSign(entry), entry.label)));
}

function legendSign(entry) {
  const svg = svgElement("svg", {viewBox: "-11 -7 22 14", width: 22, height: 14, "aria-hidden": "true"});
  svg.append(...legendShapes(entry));
  return svg;
}

function legendShapes({colour, symbol, dash, fill}) {
  if (fill) return [svgElement("rect", {x: -7, y: -5, width: 14, height: 10, rx: 2, fill: colour})];
  if (!symbol) return [svgElement("line", {x1: -11, x2: 11, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash ?? null})];
  return [svgElement("path", {d: d3.symbol(symbolType(symbol), 60)(), fill: colour})];
}

function svgElement(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  return element;
}

function symbolType(name) {
  return {circle: d3.symbolCircle, triangle: d3.symbolTriangle, square: d3.symbolSquare, diamond: d3.symbolDiamond2,
    cross: d3.symbolCross, star: d3.symbolStar}[name] ?? d3.symbolCircle;
}

// The drawing as a file of its own: on white, with the light colours in place of the page's variables, and its legend.
function standaloneSvg(svg, figure) {
  const copy = svg.cloneNode(true);
  const [, , width, height] = svg.getAttribute("viewBox").split(/[ ,]+/).map(Number);
  copy.querySelectorAll("style").forEach((style) => style.remove());
  copy.querySelectorAll('[aria-label="tip"]').forEach((mark) => mark.remove());
  const whole = height + legendIntoSvg(copy, figure.legend ?? [], width, height);
  copy.setAttribute("viewBox", `0 0 ${width} ${whole}`);
  copy.setAttribute("height", whole);
  copy.style.fontFamily = "Helvetica, Arial, sans-serif";
  const name = svgElement("title", {});
  name.textContent = shownPlain(figure.title);
  copy.prepend(name, svgElement("rect", {width, height: whole, fill: "#ffffff"}));
  return new XMLSerializer().serializeToString(copy)
    .replace(/var\((--[a-z0-9-]+)\)/g, (_, variable) => LIGHT[variable] ?? LIGHT["--ink"])
    .replaceAll("currentColor", LIGHT["--ink"]);
}

// Writes the legend below the drawing; how much higher that makes it.
function legendIntoSvg(svg, entries, width, height) {
  let [x, y] = [16, height + 14];
  for (const entry of entries) {
    const needed = 34 + 7 * entry.label.length; // letters of 12 pixels are about 7 wide
    if (x > 16 && x + needed > width) [x, y] = [16, y + 20];
    const group = svgElement("g", {transform: `translate(${x + 11},${y})`});
    const label = svgElement("text", {x: 16, y: 4, "font-size": 12, "text-anchor": "start", fill: "var(--ink)"});
    label.textContent = shownPlain(entry.label);
    group.append(...legendShapes(entry), label);
    svg.append(group);
    x += needed;
  }
  return entries.length ? y + 14 - height : 0;
}

const LIGHT = {"--ink": "#1c1e21", "--muted": "#5b6068", "--line": "#dcdcd5", "--grid": "#e9e9e4", "--card": "#ffffff",
  "--series-1": "#0072b2", "--series-2": "#c65000",
  "--series-3": "#00805f", "--series-4": "#a8528a", "--series-5": "#8a6d00", "--series-6": "#4d5866", "--plot-background": "#ffffff"};

// What all plots share: sizes, fonts, grid in the page's colours.
function plot(width, options) {
  return Plot.plot({
    width,
    marginTop: 24,
    marginRight: 20,
    style: {background: "none", color: "var(--ink)", fontFamily: "inherit", fontSize: width < 380 ? "11px" : "12px", overflow: "visible"},
    ...options,
  });
}

// Rules of the grid in their own colour, under the marks; `ticks` where the axis has its own.
function gridMarks({x = false, y = false, ticks} = {}) {
  const look = {stroke: "var(--grid)", strokeOpacity: 1, ...(ticks ? {ticks} : {})};
  return [x ? Plot.gridX(look) : null, y ? Plot.gridY(look) : null].filter(Boolean);
}

// The name of each panel above it; in place of Plot's axes of panels, which stand beside them.
function panelNames(names, facet) {
  return Plot.text(names, {[facet]: (name) => name, text: (name) => shownPlain(name), frameAnchor: "top", dy: -19, fontWeight: 550});
}

// The box beside the pointer: lines of "name  value".
function tip(options) {
  return {fill: "var(--card)", stroke: "var(--line)", fontSize: 12, lineWidth: 30, lineHeight: 1.35, textPadding: 9, ...options};
}

// For a step in which nothing was made yet, with the command that makes it.
function emptyState(text, command) {
  return el("p", {class: "empty"}, text, command ? [" ", el("code", {}, command)] : null);
}
