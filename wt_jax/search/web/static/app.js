"use strict";
// The page's own script. Everything that is shown is made of nodes and text, never of HTML from strings.

const csrf = document.querySelector('meta[name="csrf"]').content;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

let statusTimer;
function say(text, fault = false) {
  const node = byId("status");
  node.textContent = text;
  node.classList.toggle("fault", fault);
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => { node.textContent = ""; }, fault ? 9000 : 4000);
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, { ...options, headers: { "X-CSRF-Token": csrf, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is the command still running?");
  }
  if (answer.ok) return answer;
  let text = "";
  try { text = (await answer.json()).error; } catch { /* no JSON */ }
  throw new Error(text || (answer.status === 401 ? "This page's session is over: open the link that the command printed last." : `The server answered ${answer.status}.`));
}
const askJson = async (address, options) => (await ask(address, options)).json();

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  const rest = (seconds - 60 * minutes).toFixed(1).padStart(4, "0");
  return minutes >= 60 ? `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

// ---- Moving thumbnails: loaded when in view, playing when in view or, where motion is unwelcome, on hover and focus.

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.src) target.src = target.dataset.src;
    if (isIntersecting && !still.matches) target.play().catch(() => {});
    if (!isIntersecting) target.pause();
  }
}, { rootMargin: "80px" });

function thumbnail(moment, label) {
  const video = make("video", { muted: true, loop: true, playsInline: true, preload: "auto", "aria-label": label });
  video.dataset.src = `/thumb/${moment}.mp4`;
  video.addEventListener("error", async () => {
    if (!video.src) return;
    let text = "No picture can be made of this moment.";
    try { text = (await (await fetch(video.dataset.src)).json()).error; } catch { /* keep */ }
    video.replaceWith(make("p", { class: "fault" }, text));
  });
  seen.observe(video);
  return video;
}

// ---- Tiles

function tile(found, actions, scored = true) {
  const { video, start, end } = found;
  const place = `${video.name}, ${clock(start)} to ${clock(end)}`;
  const picture = thumbnail(found.moment, `Moving picture of ${place}`);
  const score = scored
    ? make("div", { class: "score" }, make("b", {}, found.score.toFixed(3)), make("span", { title: "random pairs of moments that are less alike" }, `above ${found.percentile.toFixed(1)} %`))
    : null;
  const address = `/video/${video.id}${location.search}#t=${start}`;
  const link = make("a", { href: address }, video.name);
  const node = make("article", { class: "tile", tabIndex: 0, "aria-label": `${scored ? `Score ${found.score.toFixed(2)}, ` : ""}${place}` },
    make("div", { class: "shown" }, picture),
    make("div", { class: "text" }, score, link, make("div", { class: "hint" }, `${clock(start)}–${clock(end)}${video.label ? ` · ${video.label}` : ""}`)),
    make("div", { class: "acts" },
      make("button", { type: "button", class: "like", onclick: () => actions.like(found) }, "More like this"),
      make("button", { type: "button", class: "small", title: "Add as an example", "aria-label": `Add ${place} as an example`, onclick: () => actions.add(found) }, "+"),
      make("button", { type: "button", class: "small", title: "Subtract as a counterexample", "aria-label": `Subtract ${place} as a counterexample`, onclick: () => actions.subtract(found) }, "−")));
  const play = () => { if (!picture.src) picture.src = picture.dataset.src; if (still.matches) picture.play?.().catch(() => {}); };
  node.addEventListener("mouseenter", play);
  node.addEventListener("focus", play);
  for (const leave of ["mouseleave", "blur"]) node.addEventListener(leave, () => { if (still.matches) picture.pause?.(); });
  node.querySelector(".shown").addEventListener("click", () => actions.like(found));
  node.addEventListener("keydown", (event) => {
    if (event.target !== node || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { Enter: () => actions.like(found), "+": () => actions.add(found), "-": () => actions.subtract(found), o: () => { location.href = address; } }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  return node;
}

function walkWithArrows(grid) {
  grid.addEventListener("keydown", (event) => {
    if (!event.target.classList.contains("tile")) return;
    const tiles = [...grid.querySelectorAll(".tile")];
    const across = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    const next = step && tiles[tiles.indexOf(event.target) + step];
    if (next) { event.preventDefault(); next.focus(); }
  });
}

// Elsewhere than on the search page, to search means to go there.
const goActions = {
  like: (found) => { location.href = `/?q=m${found.moment}`; },
  add: (found) => { goWith(`m${found.moment}`); },
  subtract: (found) => { goWith(`-m${found.moment}`); },
};
function goWith(example) {
  const parameters = new URLSearchParams(location.search);
  parameters.append("q", example);
  location.href = `/?${parameters}`;
}

// ---- Search

function searchPage() {
  const results = byId("results"), form = byId("filter-form");
  let shown = [], running = null, clip = null, count = 24, mode = "search";
  const clipNames = JSON.parse(sessionStorage.getItem("clips") || "{}");

  const parameters = () => new URLSearchParams(location.search);
  const examples = () => parameters().getAll("q");

  function go(change, push = true) {
    const next = parameters();
    change(next);
    const address = `/${next.size ? `?${next}` : ""}`;
    if (push) history.pushState(null, "", address); else history.replaceState(null, "", address);
    count = 24;
    refresh();
  }
  const actions = {
    like: (found) => { mode = "search"; go((p) => { p.delete("q"); p.delete("mode"); p.append("q", `m${found.moment}`); }); scrollTo({ top: 0 }); },
    add: (found) => go((p) => { p.delete("mode"); remove(p, `-m${found.moment}`); add(p, `m${found.moment}`); }),
    subtract: (found) => go((p) => { p.delete("mode"); remove(p, `m${found.moment}`); add(p, `-m${found.moment}`); }),
  };
  const remove = (p, text) => p.delete("q", text);
  const add = (p, text) => { if (!p.getAll("q").includes(text)) p.append("q", text); };

  async function refresh() {
    running?.abort();
    running = new AbortController();
    mode = parameters().get("mode") === "find" ? "find" : "search";
    showExamples();
    const asked = examples().length > 0;
    results.setAttribute("aria-busy", "true");
    try {
      const query = filled(parameters());
      query.set("n", count);
      query.delete("mode");
      const address = asked ? `/api/${mode}?${query}` : `/api/browse?n=${count}`;
      show(await askJson(address, { signal: running.signal }), asked);
    } catch (error) {
      if (error.name !== "AbortError") { results.replaceChildren(); shown = []; say(error.message, true); byId("results-title").textContent = "No results"; byId("more").hidden = true; }
    } finally {
      results.removeAttribute("aria-busy");
    }
  }

  // What the form says in days, the interface wants in seconds.
  function filled(query) {
    for (const name of ["changed_from", "changed_to"]) {
      const day = query.get(name);
      if (day) query.set(name, Date.parse(`${day}T${name === "changed_to" ? "23:59:59" : "00:00:00"}`) / 1000);
    }
    return query;
  }

  function show(answer, asked) {
    const found = asked ? answer.results : answer.moments;
    const kept = new Map([...results.children].map((node) => [node.dataset.key, node]));
    shown = found;
    results.replaceChildren(...found.map((one) => {
      const key = `${one.moment} ${one.score} ${asked}`;
      const node = kept.get(key) || tile(one, actions, asked);
      node.dataset.key = key;
      return node;
    }));
    byId("results-title").textContent = asked
      ? (found.length ? (mode === "find" ? "Where your clip may be" : `${found.length} moments, the most alike first`) : "No moment passes the filters")
      : "Some moments to begin with";
    byId("unlike").hidden = !asked || !found.length || answer.alike;
    byId("took").textContent = asked && answer.milliseconds ? `${answer.milliseconds.toFixed(0)} ms` : "";
    byId("export-field").hidden = !found.length;
    byId("more").hidden = !asked || found.length < count || count >= 480;
    if (asked) say(byId("unlike").hidden ? byId("results-title").textContent : "Nothing here is alike");
  }

  function showExamples() {
    const list = byId("examples");
    list.replaceChildren(...examples().map((text) => {
      const minus = text.startsWith("-"), bare = text.replace(/^-/, "");
      const isClip = bare.startsWith("c");
      const [key, times] = bare.slice(1).split("@");
      const name = isClip ? `${clipNames[key] || "your clip"}, ${times.split("-").join(" to ")} s` : `moment ${key}`;
      const picture = isClip ? make("video", { muted: true, preload: "auto", src: `/clip/${key}.mp4#t=${times.replace("-", ",")}`, "aria-label": name }) : thumbnail(key, name);
      const flip = minus ? bare : `-${bare}`;
      return make("li", { class: minus ? "minus" : "" }, picture, make("span", {}, `${minus ? "not like " : "like "}${name}`),
        make("div", {},
          make("button", { type: "button", title: minus ? "Make it an example" : "Make it a counterexample", "aria-label": `${minus ? "Add" : "Subtract"} ${name}`, onclick: () => go((p) => { remove(p, text); add(p, flip); }) }, minus ? "+" : "−"),
          make("button", { type: "button", title: "Remove", "aria-label": `Remove ${name}`, onclick: () => go((p) => remove(p, text)) }, "×")));
    }));
    byId("examples-title").hidden = !list.children.length;
  }

  // A dropped clip

  const drop = byId("drop"), file = byId("file"), progress = byId("upload");
  for (const name of ["dragenter", "dragover"]) addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  addEventListener("drop", (event) => { if (event.dataTransfer.files.length) upload(event.dataTransfer.files[0]); });
  file.addEventListener("change", () => { if (file.files.length) upload(file.files[0]); });

  function upload(chosen) {
    progress.hidden = false;
    progress.value = 0;
    say(`Sending ${chosen.name}`);
    const request = new XMLHttpRequest();
    request.open("POST", "/api/clips");
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => { if (event.lengthComputable) progress.value = event.loaded / event.total; };
    request.onerror = () => { progress.hidden = true; say("The clip could not be sent.", true); };
    request.onload = () => {
      progress.hidden = true;
      file.value = "";
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* no JSON */ }
      if (request.status !== 201) { say(answer.error || "The clip could not be used.", true); return; }
      clipNames[answer.clip] = chosen.name;
      sessionStorage.setItem("clips", JSON.stringify(clipNames));
      cutter({ key: answer.clip, duration: answer.duration, name: chosen.name });
    };
    request.send(chosen);
  }

  const from = byId("cut-from"), to = byId("cut-to"), preview = byId("preview"), canvas = byId("timeline-canvas");
  function cutter(next) {
    clip = next;
    byId("cutter").hidden = false;
    for (const slider of [from, to]) slider.max = clip.duration;
    from.value = 0;
    to.value = Math.min(clip.duration, 2);
    preview.src = `/clip/${clip.key}.mp4`;
    chosenSeconds();
    say(`${clip.name} is here: choose its seconds`);
    from.focus();
  }
  function chosenSeconds() {
    byId("cut-from-text").textContent = `${Number(from.value).toFixed(2)} s`;
    byId("cut-to-text").textContent = `${Number(to.value).toFixed(2)} s`;
    canvas.width = canvas.clientWidth;
    const paint = canvas.getContext("2d"), style = getComputedStyle(document.body), x = (s) => (s / clip.duration) * canvas.width;
    paint.fillStyle = style.getPropertyValue("--line");
    paint.fillRect(0, 0, canvas.width, 28);
    paint.fillStyle = style.getPropertyValue("--accent");
    paint.fillRect(x(from.value), 0, Math.max(x(to.value - from.value), 2), 28);
    paint.fillStyle = style.getPropertyValue("--ink");
    const every = [1, 2, 5, 10, 30, 60, 300, 600].find((step) => clip.duration / step <= 20) || 1800;
    for (let second = 0; second <= clip.duration; second += every) paint.fillRect(x(second), 20, 1, 8);
  }
  from.addEventListener("input", () => { if (+from.value > +to.value - 0.1) to.value = +from.value + 0.1; if (+from.value >= +to.value) from.value = +to.value - 0.1; preview.currentTime = +from.value; chosenSeconds(); });
  to.addEventListener("input", () => { if (+to.value < +from.value + 0.1) from.value = +to.value - 0.1; preview.currentTime = +to.value; chosenSeconds(); });
  preview.addEventListener("timeupdate", () => { if (clip && preview.currentTime > +to.value) preview.currentTime = +from.value; });
  preview.addEventListener("click", () => (preview.paused ? preview.play() : preview.pause()));
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    const second = (event.offsetX / canvas.clientWidth) * clip.duration;
    grip = Math.abs(second - from.value) < Math.abs(second - to.value) ? from : to;
    canvas.setPointerCapture(event.pointerId);
    move(event);
  });
  const move = (event) => { if (grip) { grip.value = (event.offsetX / canvas.clientWidth) * clip.duration; grip.dispatchEvent(new Event("input")); } };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", () => { grip = null; });
  const cut = () => `c${clip.key}@${Number(from.value).toFixed(2)}-${Number(to.value).toFixed(2)}`;
  byId("cut-search").addEventListener("click", () => go((p) => { p.delete("q"); p.delete("mode"); add(p, cut()); }));
  byId("cut-add").addEventListener("click", () => go((p) => { p.delete("mode"); add(p, cut()); }));
  byId("cut-find").addEventListener("click", () => go((p) => { p.delete("q"); p.set("mode", "find"); add(p, cut()); }));

  // Filters

  function readForm() {
    go((p) => {
      const values = new FormData(form);
      for (const name of new Set([...form.elements].map((field) => field.name))) p.delete(name);
      for (const [name, value] of values) if (value !== "" && !(name === "threshold" && +value <= -1)) p.append(name, value);
    }, false);
    threshold();
  }
  function threshold() { byId("threshold-text").textContent = +form.threshold.value <= -1 ? "any" : Number(form.threshold.value).toFixed(2); }
  function writeForm() {
    const p = parameters();
    for (const field of form.elements) {
      if (!field.name) continue;
      if (field.type === "checkbox") field.checked = p.get(field.name) === field.value;
      else if (field.multiple) for (const option of field.options) option.selected = p.getAll(field.name).includes(option.value);
      else field.value = p.get(field.name) || (field.name === "threshold" ? -1 : "");
    }
    threshold();
    byId("filters").open ||= [...form.elements].some((field) => field.name && p.has(field.name));
  }
  let later;
  for (const name of ["input", "change"]) form.addEventListener(name, () => { clearTimeout(later); threshold(); later = setTimeout(readForm, 150); });
  form.addEventListener("reset", () => setTimeout(readForm));
  form.addEventListener("submit", (event) => event.preventDefault());

  async function fillForm() {
    try {
      const info = await askJson("/api/info");
      const options = (select, values) => select.append(...values.map((value) => make("option", { value }, value)));
      if (info.folders.length > 1) { byId("folder-field").hidden = false; options(form.elements.folder, info.folders); }
      if (Object.keys(info.labels).length) { byId("label-field").hidden = false; options(form.elements.label, Object.keys(info.labels)); }
      for (const [name, values] of Object.entries(info.columns)) {
        const select = make("select", { name: `column.${name}` }, make("option", { value: "" }, "all"));
        options(select, values);
        byId("column-fields").append(make("label", {}, name, select));
      }
      if (!info.videos) byId("results-title").textContent = "This index is empty";
      const faults = [[info.num_failures, "could not be indexed"], [info.trouble.length, "could not be shown or kept"]].filter(([count]) => count);
      byId("notice").hidden = !faults.length;
      byId("notice").replaceChildren(make("a", { href: "/about" }, faults.map(([count, text]) => `${count} ${text}`).join(", ")));
    } catch (error) { say(error.message, true); }
    writeForm();
  }

  // Export

  byId("export").addEventListener("change", async (event) => {
    const format = event.target.value;
    event.target.value = "";
    if (!format) return;
    say("Exporting…");
    try {
      const moments = shown.map(({ moment, score }) => ({ moment, score }));
      const answer = await ask("/api/export", { method: "POST", body: JSON.stringify({ format, moments }) });
      const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"))[1];
      const link = make("a", { href: URL.createObjectURL(await answer.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      say(`Exported ${name}`);
    } catch (error) { say(error.message, true); }
  });

  byId("more").addEventListener("click", () => { count = Math.min(count + 24, 480); refresh(); });
  addEventListener("popstate", () => { writeForm(); refresh(); });
  addEventListener("keydown", (event) => { if (event.key === "/" && !/INPUT|SELECT/.test(event.target.tagName)) { event.preventDefault(); file.focus(); } });
  walkWithArrows(results);
  fillForm();
  refresh();
}

// ---- One video

async function videoPage() {
  const id = document.body.dataset.video, player = byId("player");
  const query = new URLSearchParams(location.search);
  byId("back").href = `/${location.search}`;
  let video;
  try { video = await askJson(`/api/videos/${id}`); } catch (error) { say(error.message, true); byId("name").textContent = "This video cannot be shown"; byId("facts").textContent = error.message; return; }
  document.title = `${video.name} · Moments`;
  byId("name").textContent = video.name;
  byId("facts").textContent = [clock(video.duration), `${video.facts.width} × ${video.facts.height}`, video.label, ...Object.entries(video.columns).map(([name, value]) => `${name}: ${value}`), video.facts.playable ? "" : "re-encoded while it plays"].filter(Boolean).join(" · ");
  const startAt = Number(/t=([\d.]+)/.exec(location.hash)?.[1] || 0);
  // What is re-encoded while it plays cannot be sought in: it begins anew at the time that is asked for.
  let offset = 0;
  function seek(time) {
    if (video.facts.playable) player.currentTime = time;
    else { offset = time; player.src = `/media/${id}?from=${time}`; }
  }
  const now = () => offset + player.currentTime;
  if (video.facts.playable) { player.src = `/media/${id}`; player.addEventListener("loadedmetadata", () => { player.currentTime = startAt; }, { once: true }); } else seek(startAt);

  const nearest = () => video.moments.reduce((best, one) => (Math.abs((one.start + one.end) / 2 - now() - 0.25) < Math.abs((best.start + best.end) / 2 - now() - 0.25) ? one : best));
  byId("from-here").addEventListener("click", () => { location.href = `/?q=m${nearest().moment}`; });
  byId("add-here").hidden = !query.getAll("q").length;
  byId("add-here").addEventListener("click", () => goWith(`m${nearest().moment}`));
  byId("copies").addEventListener("click", async () => {
    say("Looking for near copies…");
    try {
      const { pairs } = await askJson(`/api/duplicates?video=${id}`);
      byId("copies-box").hidden = false;
      byId("copies-list").replaceChildren(...(pairs.length ? pairs.map(({ moments }) => tile(moments.find((one) => one.video.id !== video.id), goActions)) : [make("p", {}, "There is no near copy of this video.")]));
      say(pairs.length ? `${pairs.length} videos are near copies` : "There is no near copy");
    } catch (error) { say(error.message, true); }
  });

  if (!query.getAll("q").length) return;
  let strip;
  query.delete("mode");
  try { strip = await askJson(`/api/videos/${id}/strip?${query}`); } catch (error) { say(error.message, true); return; }
  byId("strip-box").hidden = false;
  const canvas = byId("strip");
  const low = Math.min(...strip.scores, 0), high = Math.max(...strip.scores, low + 0.01);
  canvas.setAttribute("aria-valuemax", video.duration.toFixed(1));
  function paint() {
    canvas.width = canvas.clientWidth;
    const brush = canvas.getContext("2d"), x = (s) => (s / video.duration) * canvas.width;
    brush.clearRect(0, 0, canvas.width, 56);
    strip.scores.forEach((score, place) => {
      const warm = (score - low) / (high - low), from = video.moments[place].start;
      const next = video.moments[place + 1]?.start ?? video.moments[place].end;
      brush.fillStyle = `hsl(${230 - 200 * warm} ${40 + 50 * warm}% ${32 + 26 * warm}%)`;
      brush.fillRect(x(from), 56 - 12 - 44 * warm, Math.max(x(next - from), 1) + 0.5, 12 + 44 * warm);
    });
    brush.fillStyle = getComputedStyle(document.body).getPropertyValue("--ink");
    brush.fillRect(x(now()), 0, 2, 56);
    canvas.setAttribute("aria-valuenow", now().toFixed(1));
    canvas.setAttribute("aria-valuetext", `${clock(now())}`);
  }
  canvas.addEventListener("click", (event) => { seek((event.offsetX / canvas.clientWidth) * video.duration); player.play().catch(() => {}); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 0.5, ArrowLeft: -0.5, PageUp: 5, PageDown: -5 }[event.key];
    if (step) { event.preventDefault(); seek(Math.min(Math.max(now() + step, 0), video.duration)); }
    if (event.key === "Enter") (player.paused ? player.play() : player.pause());
  });
  for (const name of ["timeupdate", "seeked", "loadedmetadata"]) player.addEventListener(name, paint);
  addEventListener("resize", paint);
  byId("marks").replaceChildren(...strip.marks.map((place) => make("li", {}, make("button", { type: "button", onclick: () => { seek(video.moments[place].start); player.play().catch(() => {}); } }, `${clock(video.moments[place].start)} (${strip.scores[place].toFixed(2)})`))));
  paint();
}

// ---- Map

async function mapPage() {
  const canvas = byId("map"), box = byId("chosen");
  let map;
  try { map = await askJson("/api/map"); } catch (error) { say(error.message, true); return; }
  const group = (place) => map.names[map.videos[place]].label || map.names[map.videos[place]].name.split("/").slice(0, -1)[0] || "";
  const groups = [...new Set(map.videos.map((_, place) => group(place)))].sort();
  const color = (name) => `hsl(${(360 * groups.indexOf(name)) / Math.min(groups.length, 24)} 65% ${matchMedia("(prefers-color-scheme: dark)").matches ? 65 : 42}%)`;
  let chosen = -1;
  function paint() {
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    const brush = canvas.getContext("2d");
    map.points.forEach((_, place) => {
      const [x, y] = at(place);
      brush.fillStyle = color(group(place));
      brush.globalAlpha = place === chosen ? 1 : 0.7;
      brush.beginPath();
      brush.arc(x * devicePixelRatio, y * devicePixelRatio, (place === chosen ? 8 : 3.5) * devicePixelRatio, 0, 7);
      brush.fill();
    });
  }
  const at = (place) => [16 + map.points[place][0] * (canvas.clientWidth - 32), 16 + map.points[place][1] * (canvas.clientHeight - 32)];
  function choose(place) {
    if (place < 0) return;
    chosen = place;
    const name = map.names[map.videos[place]], start = map.starts[place];
    const found = { moment: map.moments[place], start, end: start, score: 0, percentile: 0, video: { id: map.videos[place], ...name } };
    box.replaceChildren(tile(found, goActions, false));
    paint();
  }
  canvas.addEventListener("click", (event) => {
    let best = -1, least = 900;
    map.points.forEach((_, place) => { const [x, y] = at(place), far = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2; if (far < least) { least = far; best = place; } });
    choose(best);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Enter" && chosen >= 0) goActions.like({ moment: map.moments[chosen] });
    if (!way) return;
    event.preventDefault();
    if (chosen < 0) { choose(0); return; }
    const [x, y] = at(chosen);
    let best = -1, least = Infinity;
    map.points.forEach((_, place) => {
      const [a, b] = at(place), along = (a - x) * way[0] + (b - y) * way[1], aside = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
      if (along > 0.5 && along + 2 * aside < least) { least = along + 2 * aside; best = place; }
    });
    choose(best);
  });
  addEventListener("resize", paint);
  if (groups.length > 1) byId("legend").replaceChildren(...groups.slice(0, 24).map((name) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg"), dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    mark.setAttribute("viewBox", "0 0 10 10");
    mark.setAttribute("aria-hidden", "true");
    for (const [key, value] of Object.entries({ cx: 5, cy: 5, r: 5, fill: color(name) })) dot.setAttribute(key, value);
    mark.append(dot);
    return make("li", {}, mark, name || "elsewhere");
  }));
  paint();
}

// ---- Near duplicates

function duplicatesPage() {
  const form = byId("duplicates-form");
  async function look() {
    byId("checked").textContent = "Looking…";
    try {
      const { pairs, checked, total } = await askJson(`/api/duplicates?least=${form.least.value}`);
      byId("checked").textContent = `${pairs.length} pairs of videos${checked < total ? `; ${checked} of ${total} moments were compared with all others` : ""}`;
      byId("pairs").replaceChildren(...pairs.map(({ fraction, moments }) => make("div", { class: "copy" }, ...moments.map((one) => tile(one, goActions, false)), make("p", {}, make("b", {}, `${(100 * fraction).toFixed(0)} %`), " of the compared moments of the first are in the second; the closest pair scores ", make("b", {}, moments[0].score.toFixed(3))))));
    } catch (error) { say(error.message, true); byId("checked").textContent = ""; }
  }
  form.addEventListener("submit", (event) => { event.preventDefault(); look(); });
  look();
}

// ---- About

async function aboutPage() {
  let info;
  try { info = await askJson("/api/info"); } catch (error) { say(error.message, true); return; }
  const rows = {
    Moments: `${info.moments.toLocaleString()}, each ${info.windows.length} s long, one every ${info.windows.every} s`,
    Videos: `${info.videos.toLocaleString()}, ${info.seconds < 7200 ? `${(info.seconds / 60).toFixed(1)} minutes` : `${(info.seconds / 3600).toFixed(1)} hours`}`,
    Encoder: `${info.encoder.name}, ${info.encoder.dim} numbers per moment, weights ${info.encoder.fingerprint}`,
    "Alike from": `a score of ${info.least_alike.toFixed(3)}: 98 % of the moments here have one as near in another video`,
    Labels: Object.entries(info.labels).map(([name, count]) => `${name} (${count})`).join(", ") || "none",
  };
  byId("about").replaceChildren(...Object.entries(rows).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  for (const [name, count] of [["trouble", info.trouble.length], ["failures", info.num_failures]]) {
    byId(`${name}-box`).hidden = !count;
    byId(name).replaceChildren(...info[name].map((one) => make("li", {}, make("b", {}, one.name), `: ${one.reason}`)));
    if (count > info[name].length) byId(name).append(make("li", {}, `and ${count - info[name].length} more`));
  }
}

({ search: searchPage, video: videoPage, map: mapPage, duplicates: duplicatesPage, about: aboutPage })[document.body.dataset.page]();
