"use strict";
// What the page does beyond being read: a tip under the pointer, one class of the map alone, and a halt to all motion.
const tip = document.getElementById("tip");

function show(event, text, tile, columns) {
  tip.replaceChildren();
  if (tile !== undefined) {
    const picture = document.createElement("span");
    picture.className = "tile";
    const side = 80;  // twice the size of a tile
    picture.style.backgroundSize = `${side * columns}px auto`;
    picture.style.backgroundPosition = `${-side * (tile % columns)}px ${-side * Math.floor(tile / columns)}px`;
    tip.append(picture);
  }
  tip.append(text);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - 14 - box.width : event.clientX + 14;
  const top = event.clientY + 14 + box.height > innerHeight ? event.clientY - 14 - box.height : event.clientY + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function follow(element, move, leave = () => {}) {
  const off = () => { tip.hidden = true; leave(); };
  element.addEventListener("pointermove", move);
  element.addEventListener("pointerdown", move);
  element.addEventListener("pointerleave", off);
  element.addEventListener("pointercancel", off);
}

for (const curve of document.querySelectorAll(".curve")) {
  const points = JSON.parse(curve.dataset.points);
  const mark = curve.querySelector(".mark");
  follow(curve, (event) => {
    const box = curve.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * curve.viewBox.baseVal.width;
    const near = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    mark.setAttribute("cx", near[0]);
    mark.setAttribute("cy", near[1]);
    mark.setAttribute("visibility", "visible");
    show(event, `step ${near[2].toLocaleString("en")}: ${near[3]}`);
  }, () => mark.setAttribute("visibility", "hidden"));
}

for (const matrix of document.querySelectorAll(".counts")) {
  const names = JSON.parse(matrix.dataset.names);
  const counts = new Map(JSON.parse(matrix.dataset.cells).map(([t, p, n]) => [t * names.length + p, n]));
  const items = names.map((_, t) => names.reduce((sum, _, p) => sum + (counts.get(t * names.length + p) || 0), 0));
  follow(matrix, (event) => {
    const box = matrix.getBoundingClientRect();
    const place = (at, start, length) => Math.min(names.length - 1, Math.max(0, Math.floor((at - start) / length * names.length)));
    const t = place(event.clientY, box.top, box.height), p = place(event.clientX, box.left, box.width);
    const n = counts.get(t * names.length + p) || 0;
    show(event, `${names[t]} taken for ${names[p]}: ${n} of ${items[t]}`);
  });
}

const map = document.getElementById("map");
if (map) {
  const points = [...map.querySelectorAll("circle")];
  const buttons = [...document.querySelectorAll(".legend button")];
  let alone = null;
  follow(map, (event) => {
    const box = map.getBoundingClientRect(), view = map.viewBox.baseVal;
    const x = (event.clientX - box.left) / box.width * view.width + view.x;
    const y = (event.clientY - box.top) / box.height * view.height + view.y;
    let best = -1, distance = 0.1;
    points.forEach((point, index) => {
      if (alone !== null && point.dataset.class !== alone) return;
      const d = Math.hypot(point.cx.baseVal.value - x, point.cy.baseVal.value - y);
      if (d < distance) [best, distance] = [index, d];
    });
    if (best < 0) tip.hidden = true;
    else show(event, points[best].dataset.name, best, map.dataset.columns);
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      alone = alone === button.dataset.class ? null : button.dataset.class;
      for (const b of buttons) b.setAttribute("aria-pressed", b.dataset.class === alone);
      for (const point of points) point.classList.toggle("dim", alone !== null && point.dataset.class !== alone);
    });
  }
}

const pause = document.getElementById("pause");
if (document.querySelector(".clip")) {
  const halt = (still) => {
    document.body.classList.toggle("paused", still);
    pause.setAttribute("aria-pressed", still);
  };
  pause.hidden = false;
  pause.addEventListener("click", () => halt(!document.body.classList.contains("paused")));
  halt(matchMedia("(prefers-reduced-motion: reduce)").matches);
}
