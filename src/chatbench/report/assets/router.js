// Addresses within the page: #/VIEW, #/VIEW/ARGUMENT, each with ?NAME=VALUE&... Every state worth sharing has one.

// {view, argument, parameters} of an address.
function readAddress(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [view, ...rest] = path.split("/");
  let argument = rest.join("/");
  try {
    argument = decodeURIComponent(argument);
  } catch {
    // an address that somebody typed: taken as it is
  }
  return {view: view || "overview", argument, parameters: new URLSearchParams(query)};
}

// address("question", id, {subset: "all"}): parameters that are empty are left out.
function address(view, argument = "", parameters = {}) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(kept).toString();
  // encodeURIComponent refuses lone surrogates
  const safe = String(argument).replace(/\p{Cs}/gu, "\ufffd");
  return `#/${view}${argument === "" ? "" : `/${encodeURIComponent(safe)}`}${query ? `?${query}` : ""}`;
}

// The same view with other parameters, without a new entry in the history and without drawing again.
function rememberParameters(parameters) {
  const now = readAddress(location.hash);
  history.replaceState(null, "", address(now.view, now.argument, parameters));
}

let drawing = 0; // number of the latest draw, so that a slow one that was overtaken is thrown away

async function draw() {
  const mine = ++drawing;
  const {view, argument, parameters} = readAddress(location.hash);
  const known = VIEWS.find((each) => each.name === view) ?? VIEWS[0];
  showNavigation(known);
  const main = document.getElementById("content");
  let body;
  try {
    body = await known.draw(argument, parameters);
  } catch (error) {
    body = el("section", {class: "card"}, el("h1", {}, "This part could not be shown"), el("p", {}, String(error.message)));
    console.error(error);
  }
  if (mine !== drawing) return;
  main.replaceChildren(body);
  main.classList.toggle("wide", Boolean(known.wide));
  const heading = main.querySelector("h1");
  document.title = heading ? shownPlain(`${heading.textContent} – ${FIRST.title}`) : FIRST.title;
  body.dispatchEvent(new Event("inpage")); // it has a size now
}

function startRouter() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // its address is not one of a view
    document.getElementById("content").focus();
  });
  window.addEventListener("hashchange", async () => {
    await draw();
    window.scrollTo(0, 0);
    document.getElementById("content").focus({preventScroll: true});
  });
  return draw();
}
