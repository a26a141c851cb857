// The list of chats: filters, search, and rows of which only those in sight are in the page.

const ROW_HEIGHT = 62; // pixels, as chats.css has it
const ROWS_AROUND = 8; // above and below what is seen

// The filters by parameter of the address: a label, the value of a row, and the word for a value.
function filtersOf(store) {
  const {index} = store;
  const {rows} = index;
  const participants = (row) => `${index.participants[rows.participant[row]]} ${index.models[rows.model[row]]}`;
  return [
    {name: "by", label: "User", values: (row) => [participants(row)],
      word: (value) => {
        const participant = index.participants.find((each) => value.startsWith(`${each} `)); // "base model" is two words
        return participant === "people" ? "people" : participantWords({participant, model: value.slice(participant.length + 1)});
      }},
    {name: "assistant", label: "Assistant", values: (row) => [index.assistants[rows.assistant[row]]]},
    {name: "subset", label: "Subset", values: (row) => [index.questions[rows.question[row]].subset], word: words},
    {name: "question", label: "Question", values: (row) => [index.questions[rows.question[row]].id]},
    {name: "answer", label: "Answer", values: (row) => [["none", "wrong", "right"][rows.correct[row] + 1]],
      word: (value) => (value === "none" ? "no valid answer" : value)},
    {name: "ended", label: "Ended", values: (row) => [index.terminations[rows.termination[row]]],
      word: (value) => ENDINGS[value] ?? words(value)},
    {name: "split", label: "Split", word: words, values: (row) =>
      (index.splits[rows.split[row]] ? [index.splits[rows.split[row]]] : index.questions[rows.question[row]].splits)},
    {name: "failure", label: "Detected failure", word: words, values: (row) => rows.observed[row].map((failure) => index.failures[failure])},
  ];
}

// The rows that pass all filters of `parameters` but the search.
function filteredRows(store, parameters) {
  const active = filtersOf(store).filter((each) => parameters.get(each.name));
  return store.allRows().filter((row) => active.every((each) => each.values(row).includes(parameters.get(each.name))));
}

// A form of the filters that tell chats apart; `changed(name, value)` is told each choice.
function filterForm(store, changed) {
  const fields = filtersOf(store).map((filter) => {
    const values = new Set(store.allRows().flatMap(filter.values));
    values.delete("");
    if (values.size < (filter.name === "failure" ? 1 : 2)) return null; // it would not tell chats apart
    const select = el("select", {name: filter.name, "aria-label": filter.label, onchange: () => changed(filter.name, select.value)},
      el("option", {value: ""}, `${filter.label}: all`),
      [...values].sort(byNumberInName).map((value) => el("option", {value}, (filter.word ?? String)(value))));
    return {name: filter.name, select};
  }).filter(Boolean);
  return {
    element: el("div", {class: "fields"}, fields.map((field) => field.select)),
    show(parameters) {
      for (const {name, select} of fields) {
        select.value = parameters.get(name) ?? "";
        select.classList.toggle("set", select.value !== "");
      }
    },
    active: (parameters) => fields.filter(({name}) => parameters.get(name)).length,
  };
}

function byNumberInName(one, other) {
  return one.localeCompare(other, "en", {numeric: true});
}

// A listbox of chats. `chosen(row)` is told which was chosen, by pointer or by key.
function chatListbox(store, chosen) {
  let rows = [], current = null;
  const space = el("div", {class: "space"});
  const box = el("div", {class: "chat-list", role: "listbox", tabindex: "0", "aria-label": "Chats", onscroll: () => draw()}, space);
  box.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) chosen(Number(option.dataset.row), true);
  });
  new ResizeObserver(() => draw()).observe(box);

  function draw() {
    const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - ROWS_AROUND);
    const last = Math.min(rows.length, Math.ceil((box.scrollTop + (box.clientHeight || 800)) / ROW_HEIGHT) + ROWS_AROUND);
    space.style.height = `${rows.length * ROW_HEIGHT}px`;
    space.replaceChildren(...rows.slice(first, last).map((row, place) => option(row, first + place)));
    if (rows.slice(first, last).includes(current)) box.setAttribute("aria-activedescendant", `chat-${current}`);
    else box.removeAttribute("aria-activedescendant");
  }

  function option(row, place) {
    const chat = store.chat(row);
    return el("div", {
      class: "chat-row", role: "option", id: `chat-${row}`, "data-row": row, "aria-selected": String(row === current),
      "aria-posinset": place + 1, "aria-setsize": rows.length, "--top": `${place * ROW_HEIGHT}px`,
    },
    el("div", {class: "row-head"}, participantChip(chat), el("span", {class: "row-question"}, `${chat.question.id} · ${chat.assistant}`), answerMark(chat)),
    el("div", {class: "row-said", dir: "auto"}, chat.snippet || "(nothing was said)"),
    );
  }

  function bringIntoSight() {
    const place = rows.indexOf(current);
    if (place < 0) return;
    const top = place * ROW_HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW_HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_HEIGHT - box.clientHeight;
  }

  return {
    element: box,
    draw,
    rows: () => rows,
    // Other rows; the list begins at its top again unless it only grew.
    setRows(found, keepPlace) {
      rows = found;
      if (!keepPlace) box.scrollTop = 0;
      bringIntoSight();
      draw();
    },
    setCurrent(row) {
      current = row;
      bringIntoSight();
      draw();
    },
    // The row that is `by` away from the current one, or from what is in sight where there is none; null in no rows.
    neighbour(by) {
      const place = rows.indexOf(current);
      const from = place >= 0 ? place : Math.ceil(box.scrollTop / ROW_HEIGHT) - Math.sign(by);
      return rows[Math.max(0, Math.min(rows.length - 1, from + by))] ?? null;
    },
  };
}
