// The keys of the chats' view, what lists them, and the copying of a link.

const KEYS = [
  ["j, ↓", "next chat"], ["k, ↑", "chat before"], ["Enter", "read it"], ["Esc", "back to the list"], ["/", "search"],
  ["b", "real and simulated beside each other"], ["p", "probability of each token"], ["c", "copy the chat's link"],
  ["?", "these keys"],
];

// The keys of the view, wherever the focus is, but in a field. `escape(inReader)` leads back to the list.
function listenToKeys({element, reader, search, list, keys, isReading, step, escape}) {
  document.addEventListener("keydown", (event) => {
    if (!element.isConnected || event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
    const at = document.activeElement;
    if (at.matches("input, select, textarea")) {
      if (event.key === "Escape" && at === search) list.element.focus();
      if (event.key === "Enter" && at === search) list.element.focus(), isReading() || step(1);
      return;
    }
    const inReader = reader.contains(at);
    const page = Math.max(1, Math.floor(list.element.clientHeight / ROW_HEIGHT) - 1);
    const press = (name) => reader.querySelector(`[data-act=${name}]`)?.click();
    const actions = {
      "j": () => step(1), "k": () => step(-1), "/": () => search.focus(), "?": () => keys.showModal(),
      "Escape": () => escape(inReader),
      "b": () => press("beside"), "p": () => press("shade"), "c": () => press("copy"),
    };
    if (at === list.element || at === document.body || at.id === "content") {
      Object.assign(actions, {
        "ArrowDown": () => step(1), "ArrowUp": () => step(-1), "PageDown": () => step(page), "PageUp": () => step(-page),
        "Home": () => step(-Infinity), "End": () => step(Infinity),
        "Enter": () => (isReading() ? reader.focus() : step(1)),
      });
    }
    if (actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
}

function keysDialog() {
  const dialog = el("dialog", {class: "keys", "aria-label": "Keys"},
    el("h2", {}, "Keys"),
    el("dl", {class: "facts"}, KEYS.map(([key, meaning]) => [el("dt", {}, key.split(", ").map((each, place) => [place ? " " : "", el("kbd", {}, each)])), el("dd", {}, meaning)])),
    el("button", {type: "button", onclick: () => dialog.close()}, "Close"));
  return dialog;
}

// Puts the address on the clipboard, or, where that is not allowed, into a field from which it can be copied.
async function copyLink(button) {
  try {
    await navigator.clipboard.writeText(location.href);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = before), 1500);
  } catch {
    const field = el("input", {type: "text", readonly: true, value: location.href, "aria-label": "Link to this chat"});
    button.replaceWith(field);
    field.select();
  }
}
