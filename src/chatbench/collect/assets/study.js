// The chat beside a question, and small helps: no form is sent twice, leaving is asked for, pasting is counted.
"use strict";

const answer = document.getElementById("answer");
const chat = document.getElementById("chat");

for (const button of document.querySelectorAll("[data-confirm]"))
  button.addEventListener("click", (event) => { if (!window.confirm(button.dataset.confirm)) event.preventDefault(); });

for (const form of document.querySelectorAll("form[method=post]"))
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    if (!event.defaultPrevented) form.dataset.sent = "yes";
  });
window.addEventListener("pageshow", (event) => { if (event.persisted) window.location.reload(); });

if (answer) document.addEventListener("paste", () => { answer.elements.pasted.value = Number(answer.elements.pasted.value) + 1; });

if (chat) {
  const log = document.getElementById("log");
  const status = document.getElementById("status");
  const button = chat.querySelector("button");
  const text = chat.elements.text;
  let left = Number(chat.dataset.left);
  let pending = "";

  const show = (who, name, words) => {
    const turn = document.createElement("div");
    turn.className = `turn ${who}`;
    const label = document.createElement("span");
    label.className = "who";
    label.textContent = name;
    const written = document.createElement("div");
    written.className = "written";
    written.textContent = words;
    turn.append(label, written);
    log.append(turn);
    log.scrollTop = log.scrollHeight;
    return written;
  };

  const mayAnswer = () => {
    document.getElementById("first-chat").hidden = true;
    answer.querySelector("button.main").disabled = false;
  };

  const say = () => {
    document.getElementById("left").textContent = left > 0 ? `${left} message${left > 1 ? "s" : ""} left` : "No messages left: please answer.";
    text.disabled = button.disabled = left <= 0 && !pending;
  };

  const failed = (message, again) => {
    status.textContent = message;
    button.disabled = false;
    button.textContent = again ? "Try again" : "Send";
    text.required = !again;
    text.disabled = again;
    if (again) mayAnswer();
  };

  const send = async () => {
    const form = new FormData(chat);
    form.set("text", pending);
    form.set("turn", chat.dataset.turn);
    button.disabled = true;
    status.textContent = "The assistant is writing …";
    log.setAttribute("aria-busy", "true"); // a screen reader reads the whole reply, not each piece
    let written = null, error = "", done = false;
    try {
      const response = await fetch("/message", { method: "POST", body: new URLSearchParams(form), redirect: "error" });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const piece = await reader.read();
        if (piece.done) break;
        const lines = (rest + piece.value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const part = JSON.parse(line);
          if (part.text !== undefined) {
            written = written || show("assistant", "Assistant", "");
            written.textContent = part.again ? part.text : written.textContent + part.text;
            log.scrollTop = log.scrollHeight;
          }
          if (part.error) error = part.error;
          if (part.done) done = true;
        }
      }
      // Refused: the message was not kept.
      if (response.status === 400 || response.status === 409) {
        log.lastElementChild.remove();
        text.value = pending;
        pending = "";
        left += 1;
        say();
        log.removeAttribute("aria-busy");
        failed(error, false);
        return;
      }
    } catch (fault) {
      error = "The connection was lost.";
    }
    log.removeAttribute("aria-busy");
    if (!done) {
      if (written) written.parentElement.remove();
      failed(error || "The connection was lost.", true);
      return;
    }
    pending = "";
    chat.dataset.turn = Number(chat.dataset.turn) + 1;
    status.textContent = "";
    button.textContent = "Send";
    button.disabled = text.disabled = false;
    text.required = true;
    mayAnswer();
    say();
    if (!text.disabled) text.focus();
  };

  chat.addEventListener("submit", (event) => {
    event.preventDefault();
    if (button.disabled) return;
    if (!pending) {
      pending = text.value.trim();
      if (!pending) return;
      text.value = "";
      left -= 1;
      show("user", "You", pending);
    }
    send();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); chat.requestSubmit(); }
  });

  say(); // the box and the button are disabled until here: what is typed before has nowhere to go
  if ("pending" in chat.dataset) {
    pending = log.lastElementChild.querySelector(".written").textContent;
    send();
  }
  log.scrollTop = log.scrollHeight;
}
