// What was said, as elements: folded where it is long, with what was searched marked, and with each token's probability.

const FOLDED = 2500; // characters of a message that are shown at first
const BLOCK = 4000; // characters; a very long text is laid out in blocks, those in sight only
const MOST_MARKS = 300; // of one message
const MOST_SHADE = 55; // percent of colour: text on more would be hard to read
const NATS_DARKEST = 5; // a probability below 1 % is not told from 1 % by colour, only by its number

// A message; `query` is marked in it. `costs` is [lengths, hundredths of nats] of its tokens, or null.
function messageText(text, query, costs) {
  const block = el("div", {class: "written", dir: "auto"});
  if (costs) {
    block.append(shadedText(text, costs));
    return block;
  }
  block.append(markedText(beginningOf(text, FOLDED), query));
  if (text.length > FOLDED) block.append(restOf(text, query, block));
  return block;
}

function restOf(text, query, block) {
  const hidden = query ? placesOf(text, query).filter((at) => at + query.length > FOLDED).length : 0;
  const label = `Show all ${count(text.length)} characters` + (hidden ? ` (${plural(hidden, "more match").replace(/matchs$/, "matches")})` : "");
  const dots = el("span", {"aria-hidden": "true"}, "…");
  const button = el("button", {type: "button", class: "more", onclick: () => {
    block.replaceChildren(...blocksOf(text).map((piece) => {
      const part = el("span", {class: text.length > 4 * BLOCK ? "block" : null});
      part.append(markedText(piece, query));
      return part;
    }));
    block.tabIndex = -1;
    block.focus();
  }}, label);
  return [dots, button].reduce((fragment, each) => (fragment.append(each), fragment), document.createDocumentFragment());
}

// The text in pieces, cut after a line's end where there is one near, never inside a character.
function blocksOf(text) {
  const pieces = [];
  for (let from = 0; from < text.length;) {
    let to = Math.min(text.length, from + BLOCK);
    if (to < text.length) {
      const feed = text.lastIndexOf("\n", to);
      if (feed > from + BLOCK / 2) to = feed + 1;
      else if (/[\ud800-\udbff]/.test(text[to - 1])) to -= 1;
    }
    pieces.push(text.slice(from, to));
    from = to;
  }
  return pieces;
}

function placesOf(text, query) {
  const lower = text.toLowerCase(), wanted = query.toLowerCase();
  if (lower.length !== text.length) return []; // places would be off: rare letters such as İ
  const places = [];
  for (let at = lower.indexOf(wanted); at >= 0 && places.length < MOST_MARKS; at = lower.indexOf(wanted, at + wanted.length)) {
    places.push(at);
  }
  return places;
}

function markedText(text, query) {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const at of query ? placesOf(text, query) : []) {
    fragment.append(shown(text.slice(from, at)), el("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  fragment.append(shown(text.slice(from)));
  return fragment;
}

// The text token by token, darker where the model was more surprised, then the end marker.
function shadedText(text, [lengths, hundredths]) {
  const said = text.trim();
  const fragment = document.createDocumentFragment();
  let from = 0;
  lengths.forEach((length, token) => {
    const nats = hundredths[token] / 100;
    const piece = said.slice(from, from + length);
    from += length;
    if (piece || token === lengths.length - 1) fragment.append(shadedToken(piece || "end of message", nats, !piece));
  });
  if (from < said.length) fragment.append(shown(said.slice(from)));
  return fragment;
}

function shadedToken(piece, nats, isEnd) {
  const share = Math.min(1, nats / NATS_DARKEST);
  return el("span", {
    class: isEnd ? "token end" : "token",
    "--shade": `${Math.round(MOST_SHADE * share)}%`,
    title: `probability ${probabilityText(Math.exp(-nats))} (${number(nats, 2)} nats)`,
  }, piece);
}

function probabilityText(p) {
  if (p >= 0.995) return "above 0.99";
  return p < 0.001 ? "below 0.001" : number(p, p < 0.1 ? 3 : 2);
}

function shadeLegend() {
  const steps = [1, 0.5, 0.1, 0.01];
  return el("p", {class: "legend note"}, "Probability of each token: ",
    steps.map((p) => [shadedToken(p === 0.01 ? "≤ 0.01" : String(p), -Math.log(p), false), " "]));
}
