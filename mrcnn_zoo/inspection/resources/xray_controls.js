// The controls and texts around the picture, and the choice of boxes.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "click") made.addEventListener("click", value);
    else if (value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function goTo(step) {
  state.step = Math.min(Math.max(step, 0), steps.length - 1);
  state.hovered = null;
  refresh();
}

function refresh() {
  const step = stepId();
  document.querySelectorAll("[data-step]").forEach((button) => {
    if (button.dataset.step === step) showCurrent(button);
    else button.removeAttribute("aria-current");
  });
  document.querySelectorAll("[data-text]").forEach((text) => { text.hidden = text.dataset.text !== step; });
  document.querySelectorAll("[data-for]").forEach((part) => { part.hidden = !part.dataset.for.split(" ").includes(step); });
  document.querySelectorAll("[data-layer]").forEach((box) => {
    const used = LAYER_STEPS[box.dataset.layer];
    box.parentElement.hidden = used !== null && !used.includes(step);
  });
  byId("place").textContent = `${state.step + 1} / ${steps.length}`;
  byId("previous").disabled = state.step === 0;
  byId("next").disabled = state.step === steps.length - 1;
  showCount(step);
  showHistory();
  showDetail(step);
  showDetections();
  showObjects();
  draw();
  canvas.setAttribute("aria-label", `${data.image.name}, step ${state.step + 1}: ${document.querySelector(`[data-text="${step}"] h2`).textContent}. ${byId("count-text").textContent}`);
}

// Mark the button of the current step, inside the strip where that scrolls.
function showCurrent(button) {
  button.setAttribute("aria-current", "step");
  const strip = button.closest("ol");
  strip.scrollLeft = button.offsetLeft - strip.offsetLeft - (strip.clientWidth - button.offsetWidth) / 2;
}

function showCount(step) {
  const total = allItems(step).length, slider = byId("count");
  slider.parentElement.hidden = !(step in START_COUNT) || total < 2;
  slider.max = total;
  slider.value = Math.min(state.counts[step] ?? total, total);
}

function showHistory() {
  const path = currentPath(), list = byId("history-list");
  byId("history-hint").hidden = path !== null || state.spotlight !== null;
  byId("clear").hidden = state.selected === null && state.spotlight === null;
  byId("object-text").textContent = objectText();
  list.replaceChildren(...(path ? historyOf(path) : []).map(([step, title, text]) => {
    const at = steps.indexOf(step), isHere = step === stepId();
    const name = at < 0 ? element("b", {}, title) : element("button", { type: "button", class: "link", click: () => { keep(path); goTo(at); } }, title);
    return element("li", isHere ? { class: "here" } : {}, name, element("span", {}, text));
  }));
}

function objectText() {
  if (state.spotlight === null) return "";
  const { name, text } = data.objects[state.spotlight];
  return `Object ${state.spotlight + 1} (${name}) ${text || "is annotated"}`;
}

function keep(path) {
  state.selected = path;
  state.hovered = null;
}

// --- Pointer

function pointAt(event) {
  const frame = canvas.getBoundingClientRect();
  return [corner[0] + (event.clientX - frame.left) * unit, corner[1] + (event.clientY - frame.top) * unit];
}

// Items under a point: kept ones first in the steps of NMS, then the smallest.
function itemsAt([x, y]) {
  const near = 4 * unit, prefersKept = LAYER_STEPS.suppressed.includes(stepId());
  const inside = items().filter(({ box }) => x >= box[0] - near && x <= box[2] + near && y >= box[1] - near && y <= box[3] + near);
  const area = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  return inside.sort((a, b) => (prefersKept && (a.fate !== FATE.kept) - (b.fate !== FATE.kept)) || area(a) - area(b));
}

function hover(event) {
  if (event.pointerType === "touch") return;
  const point = pointAt(event), found = itemsAt(point)[0];
  byId("value").textContent = valueText(point);
  setHovered(found ? itemPath(found) : null);
}

function setHovered(path) {
  if (JSON.stringify(path) === JSON.stringify(state.hovered)) return;
  state.hovered = path;
  refresh();
}

let lastPoint = null, turn = 0; // further clicks at one point choose the next box there

function choose(event) {
  const point = pointAt(event), found = itemsAt(point);
  const isSame = lastPoint && Math.hypot(point[0] - lastPoint[0], point[1] - lastPoint[1]) < 4 * unit;
  turn = isSame ? turn + 1 : 0;
  lastPoint = point;
  byId("value").textContent = valueText(point);
  select(found.length ? itemPath(found[turn % found.length]) : null);
}

function valueText([x, y]) {
  const found = currentMap();
  if (!found) return "";
  const { map, grid, name } = found, column = Math.floor((x - grid.left) / grid.stride), row = Math.floor((y - grid.top) / grid.stride);
  if (row < 0 || column < 0 || row >= grid.rows || column >= grid.columns) return "";
  const value = map.low + (bytesOf(map.values)[row * grid.columns + column] / 255) * (map.high - map.low);
  return `${name}, row ${row}, column ${column}: ${value.toFixed(2)}`;
}

function select(path) {
  state.selected = path;
  state.hovered = state.spotlight = null;
  showLevelOf(path);
  refresh();
}

// The score map of the level of a chosen box.
function showLevelOf(path) {
  if (!path || !data.anchors || path[0] < 0) return;
  const at = data.scoreMaps.findIndex((map) => map.level === data.anchors.levels[path[0]]);
  if (at >= 0 && at !== state.maps.scores[0]) state.maps.scores = [at, 0];
}

// Show an object with the boxes that it is lost with, or the detection that finds it.
function spotlight(number, step) {
  const object = data.objects[number], stage = REGIONS.includes(step) ? boxesStage : stageOf(step);
  const row = object.rows[stages[stage]?.name]?.[0] ?? -1;
  state.selected = object.detection >= 0 ? pathOfDetection(object.detection) : row >= 0 ? pathOf(stage, row) : null;
  state.hovered = null;
  state.spotlight = number;
  showLevelOf(state.selected);
  const at = steps.indexOf(step);
  goTo(at < 0 ? state.step : at);
}

// --- Details of a step: maps to choose, class scores, the grid of a mask

function showDetail(step) {
  const box = byId("detail");
  if (step === "features" || step === "scores") { showMaps(box, step); return; }
  box.replaceChildren();
  const path = currentPath();
  if (step === "classes" || step === "bins") showScores(box, chosenRegion(path));
  if (step === "soft") showGrid(box, path ? detectionOf(path) : shownDetections()[0] ?? -1);
}

function showMaps(box, kind) {
  const levels = kind === "features" ? data.features : data.scoreMaps, chosen = state.maps[kind];
  box.replaceChildren(...levels.map((level, at) => element("div", { class: "maps" },
    element("h3", {}, `${level.name}: ${level.grid.columns} x ${level.grid.rows} cells of ${level.grid.stride} pixels`),
    ...level.maps.map((map, place) => {
      const isChosen = chosen[0] === at && chosen[1] === place;
      const thumb = element("canvas", { width: level.grid.columns, height: level.grid.rows, "aria-hidden": "true" });
      thumb.getContext("2d").drawImage(heatCanvas(map.values, level.grid.columns, level.grid.rows, { isStretched: state.isStretched }), 0, 0);
      const choose = () => { state.maps[kind] = [at, place]; refresh(); };
      return element("button", { type: "button", class: "map", "aria-pressed": String(isChosen), click: choose }, thumb,
        element("span", {}, map.label), element("small", {}, `${map.low.toFixed(2)} to ${map.high.toFixed(2)}`));
    }))));
}

function showScores(box, region) {
  if (region < 0) { box.append(element("p", { class: "caption" }, data.regions?.classes.length ? "The chosen box did not become a region." : "The model has no regions in this image.")); return; }
  const { classes, scores, pooling, threshold } = data.regions;
  if (pooling) box.append(element("p", { class: "caption" }, `Region ${region + 1}, ${sizeText(boxAt(data.regions.boxes, region))} pixels, from ${pooling.names[pooling.levels[region]]} (a cell is ${pooling.strides[pooling.levels[region]]} pixels).`));
  const list = element("ul", { class: "bars" }, ...classes[region].map((index, place) => {
    const score = scores[region][place] / 1e4, isAbove = score > threshold;
    const bar = element("i", {});
    bar.style.width = `${100 * score}%`;
    return element("li", isAbove ? {} : { class: "below" }, element("span", {}, className(index)), element("em", {}, bar), element("b", {}, scoreText(score)));
  }));
  box.append(list, element("p", { class: "caption" }, `Classes of a score above ${threshold} become boxes.`));
}

function showGrid(box, number) {
  if (number < 0 || number >= data.masks.values.length) { box.append(element("p", { class: "caption" }, "No mask grid of the chosen box.")); return; }
  const side = data.masks.side, bytes = bytesOf(data.masks.values[number]), text = element("p", { class: "caption" });
  const grid = element("canvas", { class: "grid", width: side, height: side, role: "img", "aria-label": `mask probabilities of detection ${number + 1}` });
  grid.getContext("2d").drawImage(heatCanvas(data.masks.values[number], side, side), 0, 0);
  grid.addEventListener("pointermove", (event) => {
    const frame = grid.getBoundingClientRect();
    const [x, y] = [((event.clientX - frame.left) / frame.width) * side, ((event.clientY - frame.top) / frame.height) * side].map((at) => Math.min(Math.max(Math.floor(at), 0), side - 1));
    text.textContent = `Row ${y}, column ${x}: ${(bytes[y * side + x] / 255).toFixed(2)}`;
  });
  const above = bytes.reduce((count, value) => count + (value / 255 >= data.masks.threshold), 0);
  text.textContent = `${above} of ${side * side} cells reach ${data.masks.threshold}.`;
  box.append(element("h3", {}, `Detection #${number + 1}: ${side} x ${side} probabilities`), grid, text);
}

// --- Lists

function showDetections() {
  const chosen = currentPath() ? detectionOf(currentPath()) : -1;
  byId("least-text").textContent = state.leastScore.toFixed(2);
  byId("detection-list").replaceChildren(...shownDetections().map((number) => {
    const found = data.detections[number], swatch = element("i", { "aria-hidden": "true" });
    swatch.style.background = color(number);
    const text = `#${number + 1} ${className(found.class)} (${scoreText(found.score)})`;
    const button = element("button", { type: "button", "data-detection": number, "aria-pressed": String(number === chosen), click: () => select(pathOfDetection(number)) }, swatch, text);
    return element("li", {}, button);
  }));
}

function showObjects() {
  document.querySelectorAll("[data-object]").forEach((button) => {
    button.setAttribute("aria-pressed", String(Number(button.dataset.object) === state.spotlight));
  });
}

// --- Events

let animation = 0;

function play() {
  cancelAnimationFrame(animation);
  const start = performance.now();
  const frame = (now) => {
    state.movement = Math.min(Math.max((now - start) / 1600, 0), 1);
    byId("movement").value = state.movement;
    draw();
    if (state.movement < 1) animation = requestAnimationFrame(frame);
  };
  animation = requestAnimationFrame(frame);
}

function nextItem(offset) {
  const found = items(), path = JSON.stringify(state.selected);
  if (!found.length) return;
  const at = found.findIndex((item) => JSON.stringify(itemPath(item)) === path);
  select(itemPath(found[at < 0 ? 0 : (at + offset + found.length) % found.length]));
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "ArrowRight") goTo(state.step + 1);
  else if (event.key === "ArrowLeft") goTo(state.step - 1);
  else if (event.key === "Escape") select(null);
  else if (event.target === canvas && event.key === "ArrowDown") nextItem(1);
  else if (event.target === canvas && event.key === "ArrowUp") nextItem(-1);
  else return;
  event.preventDefault();
}

function connect() {
  document.querySelectorAll("[data-step]").forEach((button, at) => button.addEventListener("click", () => goTo(at)));
  document.querySelectorAll("[data-layer]").forEach((box) => box.addEventListener("change", () => { state.layers[box.dataset.layer] = box.checked; refresh(); }));
  document.querySelectorAll("[data-level]").forEach((box) => box.addEventListener("change", () => {
    if (box.checked) state.hiddenLevels.delete(Number(box.dataset.level));
    else state.hiddenLevels.add(Number(box.dataset.level));
    refresh();
  }));
  document.querySelectorAll("[data-object]").forEach((button) => button.addEventListener("click", () => spotlight(Number(button.dataset.object), button.dataset.jump)));
  byId("previous").addEventListener("click", () => goTo(state.step - 1));
  byId("next").addEventListener("click", () => goTo(state.step + 1));
  byId("clear").addEventListener("click", () => select(null));
  byId("play").addEventListener("click", play);
  byId("movement").addEventListener("input", (event) => { cancelAnimationFrame(animation); state.movement = Number(event.target.value); draw(); });
  byId("count").addEventListener("input", (event) => { state.counts[stepId()] = Number(event.target.value); draw(); });
  byId("least").addEventListener("input", (event) => { state.leastScore = Number(event.target.value); refresh(); });
  byId("zoom").addEventListener("change", (event) => { state.isZoomed = event.target.checked; draw(); });
  byId("stretch").addEventListener("change", (event) => { state.isStretched = event.target.checked; refresh(); });
  document.addEventListener("keydown", onKey);
  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerleave", () => { byId("value").textContent = ""; setHovered(null); });
  canvas.addEventListener("click", choose);
  window.addEventListener("resize", draw);
}

connect();
picture.decode().then(refresh);
