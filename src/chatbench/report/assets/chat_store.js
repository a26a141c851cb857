// The chats of the page: the index of all, read when first needed, and their texts, read a part at a time.

const NO_INDEX = {
  assistants: [], participants: [], models: [], splits: [], terminations: [], failures: [], questions: [], starts: [],
  rows: {id: [], question: [], assistant: [], participant: [], model: [], split: [], termination: [], letter: [], correct: [],
    observed: [], turns: [], characters: [], snippet: []},
};
const PARTS_AT_ONCE = 4; // that a search unpacks side by side

// What `packed` of the Python side made.
async function unpacked(text) {
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// A packed part of the page; its packed text is not kept a second time.
async function packedPart(name) {
  const text = await part(name);
  PARTS.delete(name);
  return text === null ? null : unpacked(text);
}

// Calls `make` when its value is first wanted, and never again.
function once(make) {
  let made;
  return () => (made ??= make());
}

const chatStore = once(async () => {
  const index = (await packedPart("chats-index")) ?? NO_INDEX;
  const place = new Map(index.rows.id.map((id, row) => [id, row]));
  const ofQuestion = new Map(index.questions.map((question, number) => [question.id, number]));
  const texts = new Map(); // number of a part -> promise of its chats' texts
  const haystacks = new Map(); // number of a part -> {text, ends}, for the search

  function partOf(row) {
    let low = 0, high = index.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (index.starts[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function partTexts(number) {
    if (!texts.has(number)) {
      if (texts.size > 12) texts.delete(texts.keys().next().value); // the oldest
      texts.set(number, packedPart(`chats-${number}`));
    }
    return texts.get(number);
  }

  // {roles, turns, ...more} of a chat.
  async function textOf(row) {
    const number = partOf(row);
    return (await partTexts(number))[row - index.starts[number]];
  }

  async function haystack(number) {
    if (!haystacks.has(number)) {
      const chats = await (texts.get(number) ?? packedPart(`chats-${number}`));
      const each = chats.map((chat) => [...chat.turns, chat.written ?? "", chat.forced ?? ""].join("\n").toLowerCase());
      let end = 0;
      haystacks.set(number, {text: each.join("\n"), ends: each.map((text) => (end += text.length + 1))});
    }
    return haystacks.get(number);
  }

  // The rows among `rows` (in order) whose texts hold `query`, which is one line; tells `found(rows, share)` as parts
  // are done. `stopped()` true ends it.
  async function search(query, rows, stopped, found) {
    const wanted = query.toLowerCase();
    const numbers = [...new Set(rows.map(partOf))];
    const asked = new Set(rows);
    const hits = new Map();
    let done = 0, next = 0;
    async function work() {
      while (next < numbers.length && !stopped()) {
        const number = numbers[next++];
        const {text, ends} = await haystack(number);
        hits.set(number, rowsWith(text, ends, wanted, index.starts[number]).filter((row) => asked.has(row)));
        done += 1;
        if (done % 8 === 0) {
          await new Promise((resolve) => setTimeout(resolve)); // let the page draw and listen
          if (!stopped()) found(inOrder(), done / numbers.length);
        }
      }
    }
    const inOrder = () => numbers.flatMap((number) => hits.get(number) ?? []);
    await Promise.all(Array.from({length: PARTS_AT_ONCE}, work));
    return inOrder();
  }

  function rowsWith(text, ends, wanted, first) {
    const rows = [];
    let at = 0, chat = 0;
    while ((at = text.indexOf(wanted, at)) >= 0) {
      while (ends[chat] <= at) chat += 1;
      rows.push(first + chat);
      at = ends[chat];
    }
    return rows;
  }

  // One chat's row as an object.
  function chat(row) {
    const columns = index.rows;
    return {
      row,
      id: columns.id[row],
      question: index.questions[columns.question[row]],
      assistant: index.assistants[columns.assistant[row]],
      participant: index.participants[columns.participant[row]],
      model: index.models[columns.model[row]],
      split: index.splits[columns.split[row]],
      termination: index.terminations[columns.termination[row]],
      letter: columns.letter[row],
      correct: columns.correct[row],
      observed: columns.observed[row].map((failure) => index.failures[failure]),
      turns: columns.turns[row],
      characters: columns.characters[row],
      snippet: columns.snippet[row],
    };
  }

  // The rows of a question: `people` true for real chats, false for simulated ones.
  function rowsOfQuestion(questionId, people) {
    const number = ofQuestion.get(questionId);
    const {question, participant} = index.rows;
    const person = index.participants.indexOf("people");
    return allRows().filter((row) => question[row] === number && (participant[row] === person) === people);
  }

  const allRows = once(() => index.rows.id.map((_, row) => row));
  return {index, chat, textOf, search, allRows, rowsOfQuestion, rowOf: (id) => place.get(id) ?? null};
});

// Who plays the user, in words: "Person", "tiny", "tiny, base model".
function participantWords(chat) {
  if (chat.participant === "people") return "Person";
  return chat.participant === "base model" ? `${chat.model}, base model` : chat.model;
}

// The splits under whose models a person's chat was scored token by token: [{model, split, ...}].
function shadesFor(chat) {
  if (chat.participant !== "people") return [];
  return (FIRST.chats?.shades ?? []).filter((each) => chat.question.splits.includes(each.split));
}

const shadeParts = new Map(); // name -> promise

// By turn [lengths, hundredths of nats] or null; the answer's last. Null where the chat was not scored.
async function shadeOf(chat, shade) {
  let number = shade.starts.length - 1;
  while (number > 0 && shade.starts[number] > chat.row) number -= 1;
  const name = `shades-${shade.first_part + number}`;
  if (!shadeParts.has(name)) shadeParts.set(name, packedPart(name));
  return (await shadeParts.get(name))?.[chat.row] ?? null;
}
