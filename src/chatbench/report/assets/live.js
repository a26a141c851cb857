// The page on a local server (`chatbench view`): when the results have changed, it reloads, and scrolls to where it was.

const POLL_MILLISECONDS = 2000;

function startLive() {
  if (!FIRST.live) return;
  const kept = Number(sessionStorage.getItem("scrolled") ?? 0);
  sessionStorage.removeItem("scrolled");
  if (kept > 0) window.scrollTo(0, kept);
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
    sessionStorage.setItem("scrolled", String(window.scrollY));
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
