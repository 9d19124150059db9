// Fills report.html from the data beside it. All text goes in as text, never as markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const find = (selector) => document.querySelector(selector);

const PURPOSES = {
  "asset.glb": "the asset, for engines and web pages",
  "asset_lod1.glb": "lighter, for some way off",
  "asset_lod2.glb": "lightest, for far away",
  "asset_collision.glb": "a hull for physics",
  "asset.usdz": "for AR on iPhones and for USD",
  "asset.obj": "for older tools, with its .mtl and picture",
  "asset_dense.ply": "the surface before it was simplified",
  "cameras.json": "the photos' cameras, in nerfstudio's format",
  "photos/": "the photos, undistorted",
  "preview.png": "a picture of it",
};

/** An element with properties and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function clock(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  return `${minutes} min ${Math.round(seconds) % 60} s`;
}

const bytes = (n) => (n < 1e6 ? `${Math.max(1, Math.round(n / 1e3))} kB` : `${(n / 1e6).toFixed(1)} MB`);
const percent = (share) => (share > 0 && share < 0.005 ? "under 1%" : `${Math.round(share * 100)}%`);

/** Buttons of which one is pressed; calls `choose(value)`. */
function choice(holder, options, choose) {
  options.forEach(([value, label], k) => {
    const input = make("input", { type: "radio", name: holder.id, value, checked: k === 0 });
    input.addEventListener("change", () => choose(value));
    holder.append(make("label", {}, input, make("span", {}, label)));
  });
}

function legendRows(grades, withShares) {
  return grades.map(({ name, colour, share }) => {
    const row = make("li", {}, make("i"), name);
    row.firstChild.style.setProperty("--colour", colour);
    if (withShares) row.append(make("b", {}, percent(share)));
    return row;
  });
}

function fillFacts() {
  find("#name").textContent = data.name;
  find("#summary").textContent = data.summary;
  for (const [label, value] of data.facts) find("#facts dl").append(make("dt", {}, label), make("dd", {}, value));
  const holder = find("#advice div");
  const list = (title, sentences, kind) => {
    if (!sentences.length) return;
    holder.append(make("h3", {}, title), make("ul", { className: kind }, ...sentences.map((s) => make("li", {}, s))));
  };
  list("Warnings", data.warnings, "warnings");
  list("For the next capture", data.advice, "advice");
  if (!data.advice.length) {
    const all = data.warnings.length ? "Nothing" : "Nothing to warn of, and nothing";
    holder.append(make("p", { className: "quiet" }, `${all} in overlap, directions or light asks for another capture.`));
  }
  find("#made").textContent = data.made;
}

function fillPictures() {
  data.turntable.forEach((src, k) => {
    const degrees = Math.round((k * 360) / data.turntable.length);
    find(".turn").append(make("img", { src, alt: `The asset turned by ${degrees} degrees`, loading: "lazy" }));
  });
  for (const { name, view, photo, render } of data.pairs) {
    const slider = make("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: `Photo ${name} against the asset` });
    const images = [[photo, "Photo"], [render, "Asset"]].map(([src, what]) => make("img", { src, alt: `${what}, ${name}` }));
    const pair = make("div", { className: "pair" }, ...images, slider);
    slider.addEventListener("input", () => pair.style.setProperty("--at", `${slider.value}%`));
    const look = make("button", { type: "button", className: "look" }, "Look from here");
    look.addEventListener("click", () => lookThrough(view));
    find(".pairs").append(make("figure", {}, pair, make("figcaption", {}, name, look)));
  }
  choice(find("#compare"), [["beside", "Side by side"], ["wipe", "Wipe"]], (value) => {
    find("#pairs").classList.toggle("wipe", value === "wipe");
  });
  find("#masks").hidden = !data.masks;
  if (data.masks) find("#masks img").src = data.masks;
}

function fillCover() {
  find("#cover-sentence").textContent = data.cover.sentence;
  for (const { name, src } of data.cover.pictures) {
    const image = make("img", { src, alt: `The asset ${name}, coloured by how many photos see it` });
    find("#surface .cover").append(make("figure", {}, image, make("figcaption", {}, name)));
  }
  find("#surface .legend").append(...legendRows(data.cover.grades, true));
  find("#legend").append(...legendRows(data.cover.grades, false));
  find("#dome").prepend(dome(data.directions));
}

function fillCloud() {
  find("#cloud-sentence").textContent = data.cloud.sentence;
  find("#cloud .columns").hidden = !data.cloud.pictures.length;
  if (data.cloud.file) find("#cloud-photo span").textContent = `MeshLab opens them: ${data.cloud.file} in the run's workspace.`;
  for (const { name, photo, trust } of data.cloud.pictures) {
    const add = (holder, src, how) => {
      const image = make("img", { src, alt: `The points, ${name}, ${how}`, loading: "lazy" });
      find(`${holder} .cover`).append(make("figure", {}, image, make("figcaption", {}, name)));
    };
    add("#cloud-photo", photo, "in the photos' colours");
    add("#cloud-trust", trust, "coloured by confidence");
  }
  find("#cloud-trust .legend").append(...legendRows(data.cloud.grades, true));
}

/** The sky over the object: the first photo below, the turn to its right counter-clockwise, straight up in the middle. */
function dome({ views, gaps_deg }) {
  const lowest = Math.min(-10, ...views.map((v) => v.elevation_deg - 5));
  const at = (azimuth, elevation) => {
    const r = (100 * (90 - elevation)) / (90 - lowest);
    const angle = (azimuth * Math.PI) / 180;
    return [r * Math.sin(angle), r * Math.cos(angle)];
  };
  const svg = draw("svg", { viewBox: "-116 -112 232 228", role: "img", "aria-label": "Directions of the photos" });
  svg.append(draw("circle", { r: 100, class: "sky" }));
  for (const [from, to] of gaps_deg) {
    const [x0, y0] = at(from, lowest);
    const [x1, y1] = at(to, lowest);
    svg.append(draw("path", { d: `M0 0L${x0} ${y0}A100 100 0 ${to - from > 180 ? 1 : 0} 0 ${x1} ${y1}Z`, class: "gap" }));
  }
  for (const elevation of [0, 30, 60]) {
    svg.append(draw("circle", { r: at(0, elevation)[1], class: "ring" }));
    const [x, y] = at(135, elevation);
    svg.append(draw("text", { x: x + 2, y: y - 2 }, `${elevation}\u00b0`));
  }
  const sides = [["first photo", 0, 112], ["right", 106, 3], ["behind", 0, -106], ["left", -106, 3]];
  for (const [text, x, y] of sides) svg.append(draw("text", { x, y, "text-anchor": "middle" }, text));
  views.forEach(({ name, azimuth_deg, elevation_deg }, k) => {
    const [cx, cy] = at(azimuth_deg, elevation_deg);
    const dot = draw("circle", { cx, cy, r: 3.2, class: "dot", tabindex: 0, role: "button" });
    dot.append(draw("title", {}, `${name}: ${Math.round(azimuth_deg)}\u00b0 around, ${Math.round(elevation_deg)}\u00b0 up`));
    dot.addEventListener("click", () => lookThrough(k));
    dot.addEventListener("keydown", (event) => event.key === "Enter" && lookThrough(k));
    svg.append(dot);
  });
  return svg;
}

function fillTables() {
  const left = find("#left-out div");
  if (!data.left_out.length) left.append(make("p", {}, "None: every photo was used."));
  else {
    const rows = data.left_out.flatMap(({ name, reason }) => [make("dt", {}, name), make("dd", {}, reason)]);
    left.append(make("dl", {}, ...rows));
  }
  for (const { name, size } of data.files) {
    const link = make("a", { href: encodeURI(name) }, name);
    const what = make("span", {}, link, make("small", {}, PURPOSES[name] ?? ""));
    find("#files ul").append(make("li", {}, what, make("b", {}, size === null ? "folder" : bytes(size))));
  }
  const longest = Math.max(...data.stages.map((s) => s.seconds), 1e-9);
  for (const { label, seconds, memory_mb, reused } of data.stages) {
    const bar = make("i");
    bar.style.setProperty("--share", `${(100 * seconds) / longest}%`);
    const row = make("li", { className: reused ? "reused" : "" }, make("span", {}, label), bar);
    row.append(make("b", {}, clock(seconds)), make("b", {}, `${(memory_mb / 1000).toFixed(1)} GB`));
    find("#stages ol").append(row);
  }
  find("#stages p").textContent = data.totals;
}

let viewer = null;

function lookThrough(index) {
  if (!viewer) return;
  viewer.lookThrough(index);
  find("#through").value = index === null ? "" : String(index);
  if (index !== null) find("#viewer").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

function connectViewer() {
  const { holder } = viewer;
  const shadings = [["lit", "Lit"], ["texture", "Texture"], ["clay", "Clay"], ["wire", "Wire"], ["cover", "Cover"]];
  choice(find("#shading"), shadings, (value) => {
    viewer.setShading(value);
    find("#legend").hidden = value !== "cover";
  });
  find("#turn").addEventListener("change", (event) => viewer.setTurning(event.target.checked));
  holder.addEventListener("turning", (event) => (find("#turn").checked = event.detail));
  find("#cameras").addEventListener("change", (event) => viewer.showCameras(event.target.checked));
  const select = find("#through");
  select.append(make("option", { value: "" }, "Free view"));
  data.cameras.forEach(({ name }, k) => select.append(make("option", { value: String(k) }, name)));
  select.addEventListener("change", () => lookThrough(select.value === "" ? null : Number(select.value)));
  holder.addEventListener("freed", () => (select.value = ""));
  find("#reset").addEventListener("click", () => viewer.reset());
}

async function startViewer() {
  const note = find("#stage-note");
  try {
    const text = atob(document.getElementById("glb").textContent);
    const glb = Uint8Array.from(text, (c) => c.charCodeAt(0)).buffer;
    viewer = await reconViewer.openViewer(find("#stage"), glb, { cameras: data.cameras, overlay: data.cover.overlay });
    connectViewer();
    note.remove();
    document.documentElement.dataset.viewer = "ready";
  } catch (error) {
    note.textContent = "This browser cannot draw the model (it needs WebGL 2); the pictures below show it.";
    find("#viewer .bar").hidden = true;
    document.querySelectorAll(".look").forEach((button) => button.remove());
    document.documentElement.dataset.viewer = "failed";
    console.error(error);
  }
}

fillFacts();
fillPictures();
fillCover();
fillCloud();
fillTables();
startViewer();
