// The view of the chats: list and reader beside each other, or one at a time on a narrow screen.

// #/chats?...: the list with its filters.
async function chatsView(argument, parameters) {
  if (!FIRST.chats?.chats) return noChats();
  const layout = await chatsLayout();
  await layout.visit(null, parameters);
  return layout.element;
}

// #/chat/ID: one chat.
async function chatView(argument, parameters) {
  if (!FIRST.chats?.chats) return noChats();
  const layout = await chatsLayout();
  await layout.visit(argument, parameters);
  return layout.element;
}

function noChats() {
  return el("section", {}, el("h1", {}, "Chats"), el("p", {class: "empty"},
    "No chats in this page yet. Simulate some and make the page again: ", el("code", {}, "chatbench simulate MODEL --assistant SPEC")));
}

// All chats about one question, real and simulated side by side, as an element of the question's view.
async function chatsOfQuestion(questionId) {
  const store = FIRST.chats?.chats ? await chatStore() : null;
  const [people, simulated] = [true, false].map((of) => store?.rowsOfQuestion(questionId, of) ?? []);
  if (!people.length && !simulated.length) return el("p", {class: "empty"}, "No chats about this question in this page.");
  return el("div", {class: "beside"},
    chatColumn(store, "People", people, people[0], ""), chatColumn(store, "Simulated", simulated, simulated[0], ""));
}

const chatsLayout = once(async () => {
  const store = await chatStore();
  let parameters = new URLSearchParams();
  let current = null; // row of the chat that is read
  let searching = 0; // number of the latest search
  let restore = 0; // where the list was scrolled to

  const form = filterForm(store, (name, value) => change({[name]: value}));
  const search = el("input", {type: "search", name: "q", placeholder: "Search all messages", "aria-label": "Search all messages",
    autocomplete: "off", spellcheck: "false", oninput: later(() => change({q: search.value}), 180)});
  const status = el("p", {class: "note status", role: "status"});
  const clear = el("button", {type: "button", class: "quiet", onclick: () => {
    search.value = "";
    go(current, new URLSearchParams());
  }}, "Clear");
  const title = el("div", {});
  const summary = el("summary", {}, "Filters");
  const filters = el("details", {class: "filters", open: matchMedia("(min-width: 60rem)").matches}, summary, form.element);
  const list = chatListbox(store, (row, byPointer) => open(row, byPointer));
  const reader = el("section", {class: "reader", tabindex: "-1", "aria-label": "Chat"});
  const keys = keysDialog();
  const element = el("div", {class: "chats-view"},
    el("div", {class: "list-side"},
      title,
      el("div", {class: "search"}, search, el("button", {type: "button", class: "quiet", "aria-label": "Keys", onclick: () => keys.showModal()}, "?")),
      filters,
      el("div", {class: "status-line"}, status, clear),
      list.element),
    reader, keys);
  list.element.addEventListener("scroll", () => {
    if (list.element.isConnected && list.element.clientHeight) restore = list.element.scrollTop;
  });

  element.addEventListener("inpage", settle);

  // Scrolls the list to where it was, and to the chat that is read; without effect while the view is not in the page.
  function settle() {
    if (!element.isConnected) return;
    if (list.element.scrollTop !== restore) list.element.scrollTop = restore;
    list.setCurrent(current);
  }

  // Draws what the address says.
  function visit(id, wanted) {
    const before = listKey(parameters);
    parameters = new URLSearchParams(wanted);
    current = id === null ? null : store.rowOf(id);
    search.value = document.activeElement === search ? search.value : parameters.get("q") ?? "";
    form.show(parameters);
    const active = form.active(parameters);
    summary.textContent = active ? `Filters (${active} set)` : "Filters";
    clear.hidden = !active && !parameters.get("q");
    element.classList.toggle("reading", id !== null);
    title.replaceChildren(el(id === null ? "h1" : "h2", {}, "Chats")); // one first heading: the chat's where one is read
    if (before !== listKey(parameters) || !list.rows().length) refill();
    requestAnimationFrame(settle);
    if (id !== null && current === null) reader.replaceChildren(unknownChat(id));
    else if (current === null) reader.replaceChildren(el("p", {class: "empty"}, "Choose a chat to read it here. Press ? for the keys."));
    else return read(current);
  }

  // What decides which chats are in the list.
  function listKey(of) {
    return [...of].filter(([name]) => name !== "beside" && name !== "shade").sort().join("\n");
  }

  async function refill() {
    const mine = ++searching;
    const rows = filteredRows(store, parameters);
    const query = queryOf(parameters);
    restore = 0;
    if (!query) {
      list.setRows(rows);
      status.textContent = rows.length ? `${count(rows.length)} of ${plural(FIRST.chats.chats, "chat")}` : "No chat passes these filters.";
      return;
    }
    status.textContent = "Searching…";
    let shownBefore = false;
    const found = await store.search(query, rows, () => mine !== searching, (hits, share) => {
      list.setRows(hits, shownBefore);
      shownBefore = true;
      status.textContent = `${count(hits.length)} found; searched ${percent(share)}…`;
    });
    if (mine !== searching) return;
    list.setRows(found, shownBefore);
    status.textContent = found.length ? `${count(found.length)} of ${plural(rows.length, "chat")}` : "Nothing found.";
  }

  async function read(row) {
    const chat = store.chat(row);
    const text = await store.textOf(row);
    const shades = shadesFor(chat);
    const wanted = parameters.get("shade"); // of another chat, perhaps, whose question was held out elsewhere
    const shade = wanted ? shades.find((each) => shadeName(each) === wanted) ?? shades[0] : null;
    const costs = shade ? await shadeOf(chat, shade) : null;
    if (row !== current) return;
    const pressed = reader.contains(document.activeElement) ? document.activeElement.dataset.act : undefined;
    reader.replaceChildren(readerHead(chat, shades), ...readerBody(chat, text, shade, costs).filter(Boolean));
    reader.querySelector(`[data-act="${pressed}"]`)?.focus(); // the button that was pressed is there again
    reader.scrollTop = 0;
    document.title = shownPlain(`Chat about ${chat.question.id} – ${FIRST.title}`);
  }

  function readerHead(chat, shades) {
    const toggle = (label, name, value) => el("button", {type: "button", class: "quiet", "data-act": name,
      "aria-pressed": String(Boolean(parameters.get(name))),
      onclick: () => go(current, changed({[name]: parameters.get(name) ? "" : value}))}, label);
    return el("header", {class: "reader-head"},
      el("div", {class: "buttons"},
        el("a", {class: "back", href: address("chats", "", Object.fromEntries(listParameters())), onclick: (event) => {
          event.preventDefault();
          go(null, listParameters());
        }}, "‹ List"),
        el("button", {type: "button", class: "quiet", "data-act": "before", "aria-label": "Chat before", onclick: () => step(-1)}, "‹"),
        el("button", {type: "button", class: "quiet", "data-act": "next", "aria-label": "Next chat", onclick: () => step(1)}, "›"),
        toggle(chat.participant === "people" ? "Beside simulated" : "Beside real", "beside", "1"),
        chat.participant === "people" ? toggle("Token probabilities", "shade", shades.length ? shadeName(shades[0]) : "none") : null,
        el("button", {type: "button", class: "quiet", "data-act": "copy", onclick: (event) => copyLink(event.currentTarget)}, "Copy link")),
      el("h1", {}, el("a", {href: address("question", chat.question.id)}, chat.question.id)),
      el("p", {class: "facts-line"}, participantChip(chat), ` with ${chat.assistant}`, chat.split ? ` · ${words(chat.split)}` : "",
        ` · ${plural(chat.turns, "user turn")} · `, el("span", {class: `answer-${chat.correct}`}, answerWords(chat))));
  }

  function readerBody(chat, text, shade, costs) {
    const query = queryOf(parameters);
    const question = questionCard(chat.question, false);
    const own = conversation(chat, text, query, costs);
    return [question, shadeLine(chat, shade, costs), parameters.get("beside") ? besideView(chat, own, query) : own];
  }

  // The chat, and beside it those of the other kind about its question, with the same assistant first.
  function besideView(chat, messages, query) {
    const people = chat.participant === "people";
    const others = store.rowsOfQuestion(chat.question.id, !people);
    const alike = (row) => {
      const other = store.chat(row);
      return 2 * (other.assistant !== chat.assistant) + (other.participant === "base model" || chat.split !== other.split && !people);
    };
    const ordered = others.sort((one, other) => alike(one) - alike(other) || one - other);
    const own = el("section", {class: "column", "aria-label": "This chat"}, el("div", {class: "column-head"}, el("h2", {}, "This chat")),
      el("p", {class: "facts-line"}, participantChip(chat), ` with ${chat.assistant}`), messages);
    const chosen = store.rowOf(parameters.get("beside")) ?? ordered[0];
    const column = chatColumn(store, people ? "Simulated" : "People", ordered, chosen, query, (row) => {
      parameters.set("beside", store.chat(row).id);
      history.replaceState(null, "", chatAddress(chat.id, Object.fromEntries(parameters)));
    });
    return el("div", {class: "beside"}, people ? [own, column] : [column, own]);
  }

  function shadeName(shade) {
    return `${shade.model} ${shade.split}`;
  }

  function shadeLine(chat, shade, costs) {
    if (chat.participant !== "people" || !parameters.get("shade")) return null;
    const shades = shadesFor(chat);
    if (!shades.length) {
      return el("p", {class: "empty"}, "This page has no token probabilities for this chat. Compute them, then make the page again: ",
        el("code", {}, `chatbench eval-ppl ${FIRST.runs?.[0]?.name ?? "MODEL"}`));
    }
    const choice = el("select", {"aria-label": "Model that was scored", onchange: () => go(current, changed({shade: choice.value}))},
      shades.map((each) => el("option", {value: shadeName(each), selected: each === shade}, `${each.model}, ${words(each.split)}`)));
    return el("div", {class: "shade-line"}, choice, costs ? shadeLegend() : el("p", {class: "note"}, "This chat was not scored."));
  }

  function queryOf(of) {
    return (of.get("q") ?? "").replace(/\s+/g, " ").trim();
  }

  function changed(some) {
    const next = new URLSearchParams(parameters);
    for (const [name, value] of Object.entries(some)) value ? next.set(name, value) : next.delete(name);
    return next;
  }

  function listParameters() {
    return changed({beside: "", shade: ""});
  }

  // A choice of a filter or a search: the list changes, and the chat that is read stays.
  function change(some) {
    const next = changed(some);
    history.replaceState(null, "", addressOf(current, next));
    visit(current === null ? null : store.chat(current).id, next);
  }

  function addressOf(row, of) {
    const entries = Object.fromEntries(of);
    return row === null ? address("chats", "", entries) : chatAddress(store.chat(row).id, entries);
  }

  // Another place in the view, with an entry in the history; the page is not drawn again.
  function go(row, of) {
    history.pushState(null, "", addressOf(row, of));
    return visit(row === null ? null : store.chat(row).id, of);
  }

  async function open(row, toReader) {
    await go(row, changed({beside: parameters.get("beside") ? "1" : ""}));
    if (toReader && isNarrow()) reader.focus();
  }

  function step(by) {
    const row = list.neighbour(by);
    if (row !== null && row !== current) open(row, false);
  }

  function isNarrow() {
    return !matchMedia("(min-width: 60rem)").matches;
  }

  listenToKeys({element, reader, search, list, keys, isReading: () => current !== null, step, escape});

  function escape(inReader) {
    if (!inReader || isNarrow()) go(null, listParameters());
    list.element.focus();
  }

  return {element, visit};
});

// Calls `act` once nothing came for so many milliseconds.
function later(act, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
}

function unknownChat(id) {
  return el("div", {class: "empty"}, el("h1", {}, "No such chat"), el("p", {}, "This page has no chat ", el("code", {}, id), "."),
    el("p", {}, "The link may be to a page with other simulations."));
}
