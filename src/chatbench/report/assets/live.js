// The page on a local server (`chatbench view`): when the results have changed, it reloads, and scrolls to where it was.

const POLL_MILLISECONDS = 2000;
const SCROLLING = ["html", ".chat-list", ".reader"];

function startLive() {
  if (!FIRST.live) return;
  const kept = JSON.parse(sessionStorage.getItem("scrollTops") ?? "[]");
  sessionStorage.removeItem("scrollTops");
  // In the next frame: chats beside others come in a moment after the view.
  requestAnimationFrame(() => kept.forEach((top, place) => document.querySelector(SCROLLING[place])?.scrollTo(0, top)));
  const status = el("p", {class: "live", role: "status"}, "Live: follows the run.");
  document.querySelector("#bottom .frame")?.append(status);
  const poll = setInterval(() => askForVersion(status, poll), POLL_MILLISECONDS);
}

async function askForVersion(status, poll) {
  try {
    const answer = await fetch("version", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.statusText);
    const version = await answer.text();
    status.textContent = "Live: follows the run.";
    if (version === FIRST.built || document.hidden) return;
    if (isBusy()) {
      status.textContent = "Live: newer results are available; they appear when you leave the field or the selection.";
      return;
    }
    clearInterval(poll); // while the server builds the page: a second reload would begin the wait again
    sessionStorage.setItem("scrollTops", JSON.stringify(SCROLLING.map((each) => document.querySelector(each)?.scrollTop ?? 0)));
    location.reload();
  } catch {
    status.textContent = "The server has stopped: this page no longer follows the run.";
  }
}

// Whoever types or marks text is not to lose it.
function isBusy() {
  const focused = document.activeElement;
  const typing = focused !== null && focused.matches("input, textarea") && focused.value !== "";
  return typing || String(window.getSelection()) !== "";
}
