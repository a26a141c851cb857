// One chat as it is read: who, about what, what was said, and how it ended.

const ENDINGS = {
  answered: "answered by itself", forced: "answered when asked to", no_answer: "no answer, not even when asked",
  failed: "failed",
};
const LETTERS = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"];

function participantChip(chat) {
  return el("span", {class: `chip participant ${chat.participant}`}, participantWords(chat));
}

// "B, right", "no valid answer".
function answerWords(chat) {
  if (chat.correct === 1) return `${chat.letter}, right`;
  if (chat.correct === 0) return `${chat.letter}, wrong`;
  return chat.letter ? chat.letter : chat.participant === "people" ? "no answer recorded" : "no valid answer";
}

function answerMark(chat) {
  const kind = chat.correct === 1 ? "good" : chat.correct === 0 ? "bad" : "none";
  const sign = {good: "✓", bad: "✗", none: "–"}[kind];
  return el("span", {class: `mark-${kind}`}, el("span", {"aria-hidden": "true"}, `${chat.letter || ""} ${sign}`.trim()),
    el("span", {class: "unseen-label"}, answerWords(chat)));
}

// The messages of a chat and its end. `query` is marked; `shade` is what `shadeOf` gave, or null.
function conversation(chat, text, query = "", shade = null) {
  let user = 0; // the number of the user's message, which is the number of the simulator's reply too
  const messages = text.turns.map((said, place) => {
    const isUser = text.roles[place] === "u";
    const costs = isUser && shade ? shade[user] ?? null : null;
    const chance = isUser ? text.probabilities?.[user] : null;
    if (isUser) user += 1;
    return el("li", {class: isUser ? "said user" : "said assistant"},
      el("div", {class: "who"}, isUser ? (chat.participant === "people" ? "Person" : "Simulated user") : chat.assistant,
        chance ? el("span", {class: "chance", title: "probability that this turn is an answer"}, `answers: ${percent(chance[0])}`) : null),
      messageText(said, query, costs));
  });
  return el("div", {class: shade ? "conversation shaded" : "conversation"},
    el("ol", {class: "messages"}, messages),
    ending(chat, text, shade?.[user] ?? null, text.probabilities?.at(-1) ?? null));
}

function ending(chat, text, costs, chances) {
  const rows = [
    ["Answer", el("strong", {class: `answer-${chat.correct}`}, answerWords(chat)), chat.question.answer && chat.correct !== 1 ? ` (right: ${chat.question.answer})` : null],
    costs && chat.letter ? ["Scored as", el("span", {class: "written"}, shadedText(`Answer: ${chat.letter}`, costs))] : null,
    chat.termination ? ["Ended", ENDINGS[chat.termination] ?? words(chat.termination)] : null,
    text.written ? ["Written as", messageText(text.written, "", null)] : null,
    text.forced ? ["When asked", messageText(text.forced, "", null)] : null,
    text.reason ? ["Reason", text.reason] : null,
    text.lenient ? ["Lenient reading", text.lenient] : null,
    chances ? ["Letters", letterBars(chances, chat.question.answer)] : null,
    text.expected !== undefined ? ["Probability of the right letter", number(text.expected, 2)] : null,
    chat.observed.length ? ["Detected failures", chat.observed.map((failure) => `${words(failure)} × ${text.observed?.[failure] ?? 1}`).join(", ")] : null,
    text.condition ? ["Condition", text.condition] : null,
    text.confidence ? ["Confidence", words(text.confidence)] : null,
    text.dropped ? ["Omitted", `${plural(text.dropped, "oldest turn")} that no longer fitted the context`] : null,
    text.tokens && sum(text.tokens.simulator) + sum(text.tokens.assistant) ? ["Tokens", tokensText(text.tokens)] : null,
    text.seconds ? ["Time", `${number(text.seconds, 1)} s`] : null,
  ];
  return el("dl", {class: "facts ending"}, rows.filter(Boolean).map(([name, ...value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function tokensText({simulator, assistant}) {
  return `simulator read ${count(simulator[0])}, wrote ${count(simulator[1])}; assistant read ${count(assistant[0])}, wrote ${count(assistant[1])}`;
}

// [probability of an answer, then of each option's letter given one] as bars.
function letterBars(chances, right) {
  return el("span", {class: "letters"}, LETTERS.slice(0, chances.length - 1).map((letter, place) =>
    el("span", {class: letter === right ? "letter right" : "letter", "--share": `${100 * chances[place + 1]}%`},
      `${letter} ${percent(chances[place + 1])}`)));
}

function questionCard(question, open) {
  if (!question.text) return null;
  return el("details", {class: "asked", open},
    el("summary", {}, "The question"),
    el("div", {class: "written", dir: "auto"}, question.text),
    el("ol", {class: "options"}, question.options.map((option, place) =>
      el("li", {class: LETTERS[place] === question.answer ? "right" : null}, el("span", {class: "written", dir: "auto"}, option),
        LETTERS[place] === question.answer ? el("span", {class: "chip"}, "right") : null))),
    rightAnswers(question));
}

// The right answers to a question without options.
function rightAnswers({right}) {
  return right.length ? el("p", {}, "Right answer: ",
    right.map((text, place) => [place ? " or " : null, el("span", {class: "written", dir: "auto"}, text)])) : null;
}

// A chat of `rows` at a time, with buttons to the others: one column of two beside each other.
// `moved(row)` is told when another is shown.
function chatColumn(store, title, rows, start, query, moved = () => {}) {
  if (!rows.length) return el("section", {class: "column"}, el("h2", {}, title), el("p", {class: "empty"}, "None."));
  let place = Math.max(0, rows.indexOf(start));
  const body = el("div", {});
  const where = el("span", {class: "where", "aria-live": "polite"});
  async function show() {
    const chat = store.chat(rows[place]);
    const text = await store.textOf(chat.row);
    where.textContent = `${count(place + 1)} of ${count(rows.length)}`;
    body.replaceChildren(
      el("p", {class: "facts-line"}, participantChip(chat), ` with ${chat.assistant}`, chat.split ? `, ${words(chat.split)}` : "", " · ",
        el("a", {href: chatAddress(chat.id)}, "open")),
      conversation(chat, text, query));
  }
  const step = (by) => el("button", {type: "button", class: "quiet", "aria-label": by < 0 ? `${title}: the one before` : `${title}: the next`, onclick: () => {
    place = (place + by + rows.length) % rows.length;
    moved(rows[place]);
    show();
  }}, by < 0 ? "‹" : "›");
  show();
  return el("section", {class: "column", "aria-label": title}, el("div", {class: "column-head"}, el("h2", {}, title), step(-1), where, step(1)), body);
}

// The chat's address; its slashes stay, so that it can be read.
function chatAddress(id, parameters = {}) {
  const whole = address("chat", "", parameters);
  const safe = id.replace(/\p{Cs}/gu, "\ufffd").split("/").map(encodeURIComponent).join("/");
  return whole.replace("#/chat", `#/chat/${safe}`);
}
