// What each step draws.

const steps = data.steps;
const MOVING = ["refine", "boxes"], REGIONS = ["levels", "bins", "classes"], RESULTS = ["soft", "result"];
const START_COUNT = { anchors: 60, refine: 60, nms: 100, levels: 100, bins: 100, classes: 100, boxes: 60, classnms: 100 };
const LAYER_STEPS = {
  image: null, // null: all steps
  heat: ["features", "scores"],
  boxes: ["anchors", ...MOVING, "nms", ...REGIONS, "classnms", ...RESULTS],
  lines: MOVING,
  suppressed: ["nms", "classnms"],
  bins: ["bins"],
  masks: RESULTS,
  labels: RESULTS,
  objects: null,
};
const state = {
  step: 0,
  selected: null, // path of the chosen box
  hovered: null, // path of the box under the pointer
  spotlight: null, // number of the object whose boxes are shown
  movement: 1, // 0 at the anchor or region, 1 at the predicted box
  counts: { ...START_COUNT },
  leastScore: data.startScore,
  maps: { features: [0, 0], scores: [0, 0] }, // level, map
  isStretched: false,
  isZoomed: false,
  hiddenLevels: new Set(),
  layers: Object.fromEntries([...document.querySelectorAll("[data-layer]")].map((box) => [box.dataset.layer, box.checked])),
};
const byId = (id) => document.getElementById(id);
const stepId = () => steps[state.step];
const color = (index) => data.colors[index % data.colors.length];

function shows(layer) {
  return state.layers[layer] && (LAYER_STEPS[layer] === null || LAYER_STEPS[layer].includes(stepId()));
}

// --- What a step draws: items with a path, a box and a colour; the best scores first.

function allItems(step) {
  if (["anchors", "refine", "nms"].includes(step)) return firstStageItems(step);
  if (REGIONS.includes(step)) return regionItems();
  if (["boxes", "classnms"].includes(step)) return boxItems(step);
  if (RESULTS.includes(step)) return detectionItems();
  return [];
}

function firstStageItems(step) {
  const stage = stages[0], items = [];
  stage.scores.forEach((score, row) => {
    const fate = stage.fates[row];
    if (fate === FATE.notInTopK || fate === FATE.belowThreshold) return;
    const level = data.anchors ? data.anchors.levels[row] : stage.classes[row];
    if (state.hiddenLevels.has(level)) return;
    const box = step === "anchors" ? sourceBox(0, row) : step === "refine" ? movedBox(0, row) : boxOf(0, row);
    items.push({ stage: 0, row, box, fate, color: step === "nms" ? fateColor(fate) : color(level) });
  });
  return items;
}

function regionItems() {
  const { pooling, boxes } = data.regions, items = [];
  for (let region = 0; region < boxes.length / 4; region += 1) {
    const level = pooling ? pooling.levels[region] : 0;
    items.push({ region, box: boxAt(boxes, region), fate: FATE.kept, color: color(level) });
  }
  return items;
}

function boxItems(step) {
  const stage = stages[boxesStage], items = [];
  stage.scores.forEach((score, row) => {
    if (stage.fates[row] === FATE.belowThreshold || stage.fates[row] === FATE.notInTopK) return;
    const fate = stage.fates[row], box = step === "boxes" ? movedBox(boxesStage, row) : boxOf(boxesStage, row);
    items.push({ stage: boxesStage, row, box, fate, color: step === "classnms" ? fateColor(fate) : color(stage.classes[row]) });
  });
  return items;
}

function shownDetections() {
  return data.detections.map((found, number) => number).filter((number) => data.detections[number].score >= state.leastScore);
}

function detectionItems() {
  return shownDetections().map((number) => {
    const row = stages[lastStage].kept[data.detections[number].place];
    return { stage: lastStage, row, number, box: boxOf(lastStage, row), fate: FATE.kept, color: color(number) };
  });
}

function fateColor(fate) {
  return fate === FATE.kept ? GOOD : fate === FATE.suppressed ? BAD : FAINT;
}

// Along the boxes of a cascade, from the first region to the last box.
function movedBox(stage, row) {
  const stops = [boxOf(stage, row)], path = pathOf(stage, row);
  for (let at = stage; at >= 0; at -= 1) {
    stops.unshift(sourceBox(at, path[at]));
    if (at === 0 || !stages[at - 1].name.startsWith("boxes of stage")) break;
  }
  const place = state.movement * (stops.length - 1), first = Math.min(Math.floor(place), stops.length - 2);
  return stops[first].map((edge, index) => edge + (stops[first + 1][index] - edge) * (place - first));
}

function items() {
  const step = stepId();
  return allItems(step).slice(0, state.counts[step] ?? Infinity).filter((item) => item.fate !== FATE.suppressed || !LAYER_STEPS.suppressed.includes(step) || shows("suppressed"));
}

function itemPath(item) {
  return item.region === undefined ? pathOf(item.stage, item.row) : pathOfRegion(item.region);
}

const currentPath = () => state.hovered ?? state.selected;

// --- Drawing

function draw() {
  sizeCanvas(zoomBox());
  pen.fillStyle = "#101214";
  pen.fillRect(0, 0, data.image.width, data.image.height);
  if (shows("image")) pen.drawImage(picture, 0, 0, data.image.width, data.image.height);
  drawCurrentMap();
  const drawn = items(), path = currentPath();
  if (shows("masks")) drawMasks(drawn);
  if (shows("objects")) data.objects.forEach((object) => drawBox(boxAt(object.box, 0), OBJECT, { width: 2, dash: [6, 4] }));
  drawItems(drawn, path);
  if (path) drawPath(path);
  if (shows("bins")) drawChosenBins(path);
  if (state.spotlight !== null) drawSpotlight(data.objects[state.spotlight]);
  byId("count-text").textContent = countText(drawn.length);
}

function currentMap() {
  const step = stepId(), kind = step === "features" ? "features" : "scores";
  const levels = kind === "features" ? data.features : data.scoreMaps, [level, map] = state.maps[kind];
  return shows("heat") && levels[level] ? { map: levels[level].maps[map], ...levels[level] } : null;
}

// The box that the view is zoomed to: the object that is shown, or the last one of the choice.
function zoomBox() {
  if (!state.isZoomed) return null;
  if (state.spotlight !== null) return boxAt(data.objects[state.spotlight].box, 0);
  const path = state.selected, stage = path ? path.findLastIndex((row) => row >= 0) : -1;
  return stage >= 0 ? boxOf(stage, path[stage]) : null;
}

function drawCurrentMap() {
  const found = currentMap();
  if (found) drawHeat(found.map, found.grid, { isStretched: state.isStretched, fades: shows("image") });
}

function drawItems(drawn, path) {
  const step = stepId(), dimmed = step === "bins" ? 0.12 : 0.25;
  const opacity = path || state.spotlight !== null ? dimmed : drawn.length > 150 ? 0.5 : 0.9;
  const isNms = LAYER_STEPS.suppressed.includes(step);
  for (const item of [...drawn].reverse()) {
    if (shows("lines")) drawArrow(middle(startBox(item)), middle(item.box), item.color, opacity);
    if (!shows("boxes")) continue;
    const isRemoved = isNms && item.fate !== FATE.kept;
    drawBox(item.box, item.color, { width: isRemoved ? 1 : 1.8, opacity: isRemoved ? opacity * 0.6 : opacity });
  }
  if (shows("labels") && !path) drawn.forEach((item) => drawLabel(labelText(item.number), item.box, item.color));
}

function startBox(item) {
  const movement = state.movement;
  state.movement = 0;
  const box = movedBox(item.stage, item.row);
  state.movement = movement;
  return box;
}

function labelText(number) {
  const found = data.detections[number], name = data.classes.length > 1 ? `${className(found.class)} ` : "";
  return data.detections.length > 12 && !name ? `${number + 1}` : `${name}${scoreText(found.score)}`;
}

function drawMasks(drawn) {
  const chosen = currentPath() ? detectionOf(currentPath()) : -1;
  for (const { number, box, color: tint } of drawn) {
    if (chosen >= 0 && number !== chosen) continue;
    if (stepId() === "soft") { if (number < data.masks.values.length) drawSoftMask(number, tint, box); }
    else if (data.detections[number].mask) drawMask(data.detections[number].mask, tint);
  }
}

// The stage whose boxes a step shows.
function stageOf(step) {
  if (step === "classnms" || step === "boxes") return boxesStage;
  return ["scores", "anchors", "refine", "nms"].includes(step) ? 0 : lastStage;
}

// The box of a path at the current step, with what it came from and what it suppressed.
function drawPath(path) {
  const step = stepId(), stage = stageOf(step), row = path[stage];
  if (REGIONS.includes(step)) {
    const region = regionOf(path);
    if (region >= 0) drawBox(boxAt(data.regions.boxes, region), "#fff", { width: 2.5, halo: true });
  } else if (step === "anchors" || step === "scores") {
    if (row >= 0 && data.anchors) drawAnchor(row);
  } else if (row < 0) drawLast(path);
  else if (MOVING.includes(step)) drawMovement(stage, row, "#fff");
  else {
    if (LAYER_STEPS.suppressed.includes(step)) drawSuppression(stage, row);
    drawBox(boxOf(stage, row), "#fff", { width: 2.5, halo: true });
  }
}

function drawMovement(stage, row, tint) {
  const start = startBox({ stage, row }), box = movedBox(stage, row);
  drawBox(start, CANDIDATE, { width: 2, dash: [5, 4], halo: true });
  drawArrow(middle(start), middle(box), tint);
  drawBox(box, tint, { width: 2.5, halo: true });
}

function drawAnchor(row) {
  const [y, x] = data.anchors.cells.slice(3 * row, 3 * row + 2), grid = data.levels[data.anchors.levels[row]].grid;
  if (grid) {
    const [left, top] = [grid.left + x * grid.stride, grid.top + y * grid.stride];
    drawBox([left, top, left + grid.stride, top + grid.stride], CANDIDATE, { width: 2, halo: true });
  }
  drawBox(sourceBox(0, row), "#fff", { width: 2.5, halo: true });
}

// A box that an earlier stage removed: where it was last.
function drawLast(path) {
  const stage = path.findLastIndex((row) => row >= 0);
  if (stage >= 0) drawBox(boxOf(stage, path[stage]), "#fff", { width: 2, dash: [3, 3], halo: true });
}

function drawSuppression(stage, row) {
  const by = stages[stage].suppressedBy[row];
  if (by >= 0) {
    drawBox(boxOf(stage, by), GOOD, { width: 2.5, halo: true });
    drawArrow(middle(boxOf(stage, by)), middle(boxOf(stage, row)), BAD);
  }
  for (const other of stages[stage].suppressedRows.get(row) || []) drawBox(boxOf(stage, other), BAD, { width: 1.5, dash: [4, 3] });
}

function chosenRegion(path) {
  const region = path ? regionOf(path) : -1;
  return region >= 0 ? region : path || !data.regions?.classes.length ? -1 : 0;
}

function drawChosenBins(path) {
  const region = chosenRegion(path);
  if (region < 0 || !data.regions?.pooling) return;
  drawBins(region);
  drawBox(boxAt(data.regions.boxes, region), color(data.regions.pooling.levels[region]), { width: 2.5, halo: true });
}

// An object, and the boxes that find it or that it is lost with.
function drawSpotlight(object) {
  const step = stepId(), stage = stageOf(step), box = boxAt(object.box, 0);
  if (object.mask && RESULTS.includes(step)) drawMask(object.mask, OBJECT);
  drawBox(box, OBJECT, { width: 3, dash: [7, 4], halo: true });
  if (step === "input" || step === "features") return;
  if (REGIONS.includes(step)) { drawObjectRegion(object); return; }
  for (const row of (object.rows[stages[stage]?.name] || []).filter((at) => at >= 0)) {
    const tint = fateColor(stages[stage].fates[row]);
    if (MOVING.includes(step)) drawMovement(stage, row, tint);
    else if (stage === 0 && step !== "nms") drawBox(sourceBox(0, row), tint, { width: 2.5, halo: true });
    else drawBox(boxOf(stage, row), tint, { width: 2.5, halo: true });
  }
}

// The region of the box that an object is lost with.
function drawObjectRegion(object) {
  for (const row of (object.rows.boxes || []).filter((at) => at >= 0)) {
    drawBox(sourceBox(boxesStage, row), "#fff", { width: 2.5, halo: true });
  }
}

function countText(count) {
  const total = allItems(stepId()).length;
  if (!total) return "";
  return RESULTS.includes(stepId()) ? `${count} of ${data.detections.length} detections` : `${count} of ${total.toLocaleString("en")} boxes drawn, best scores first`;
}
