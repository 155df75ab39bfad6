"use strict";
// The data of the page: rows of stages, how they follow from each other, and the text of a history.

const data = JSON.parse(document.getElementById("page-data").textContent);
const stages = data.stages;
const FATE = { kept: 0, notFinite: 1, belowThreshold: 2, notInTopK: 3, tooSmall: 4, suppressed: 5, beyondLimit: 6 };
const FATE_TEXT = [
  "kept", "removed: not finite", "removed: score below the threshold", "removed: not in the top k of its level",
  "removed: too small", "suppressed", "removed: beyond the limit per image",
];
const boxesStage = stages.findIndex((stage) => stage.name === "boxes");
const proposalStage = stages.findIndex((stage) => stage.name === "proposals");
const lastStage = stages.length - 1;

for (const stage of stages) {
  stage.places = new Map(stage.kept.map((row, place) => [row, place]));
  stage.rowsOfSource = new Map();
  stage.suppressedRows = new Map();
  stage.sources.forEach((source, row) => append(stage.rowsOfSource, source, row));
  stage.suppressedBy.forEach((by, row) => { if (by >= 0) append(stage.suppressedRows, by, row); });
}

function append(lists, key, value) {
  if (!lists.has(key)) lists.set(key, []);
  lists.get(key).push(value);
}

function boxAt(hundredths, row) {
  return hundredths.slice(4 * row, 4 * row + 4).map((edge) => edge / 100);
}

function boxOf(stage, row) {
  return boxAt(stages[stage].boxes, row);
}

// The box that a row is moved from: an anchor, a region, or a box that the stage before keeps.
function sourceBox(stage, row) {
  if (stage === 0) {
    if (data.anchors) return boxAt(data.anchors.boxes, row);
    return data.regions ? boxAt(data.regions.boxes, stages[0].sources[row]) : boxOf(0, row);
  }
  return boxOf(stage - 1, stages[stage - 1].kept[stages[stage].sources[row]]);
}

function iou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(0, width) * Math.max(0, height);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return shared / Math.max(area(a) + area(b) - shared, 1e-9);
}

// The row of every stage that belongs to a row of one stage; -1 before it is made or after it is removed. A region
// that gives several rows is followed by the one that is kept, or else by that of the best score.
function pathOf(stage, row) {
  const path = new Array(stages.length).fill(-1);
  path[stage] = row;
  for (let at = stage; at > 0; at -= 1) path[at - 1] = stages[at - 1].kept[stages[at].sources[path[at]]];
  for (let at = stage; at < lastStage; at += 1) {
    const place = stages[at].places.get(path[at]);
    const rows = place === undefined ? [] : stages[at + 1].rowsOfSource.get(place) || [];
    if (!rows.length) break;
    path[at + 1] = rows.find((candidate) => stages[at + 1].fates[candidate] === FATE.kept) ?? rows[0];
  }
  return path;
}

// The region of the box head on a path, or -1.
function regionOf(path) {
  if (!data.regions || boxesStage < 0) return -1;
  if (path[boxesStage] >= 0) return stages[boxesStage].sources[path[boxesStage]];
  return stages[boxesStage - 1]?.places.get(path[boxesStage - 1]) ?? -1;
}

function pathOfRegion(region) {
  if (boxesStage > 0) return pathOf(boxesStage - 1, stages[boxesStage - 1].kept[region]);
  const rows = stages[boxesStage].rowsOfSource.get(region) || [];
  return rows.length ? pathOf(boxesStage, rows[0]) : new Array(stages.length).fill(-1);
}

function pathOfDetection(number) {
  return pathOf(lastStage, stages[lastStage].kept[data.detections[number].place]);
}

function detectionOf(path) {
  const place = stages[lastStage].places.get(path[lastStage]);
  return place === undefined ? -1 : data.detections.findIndex((found) => found.place === place);
}

function className(index) {
  return data.classes[index] ?? (data.classes.length ? `class ${index}` : "object");
}

function sizeText(box) {
  return `${(box[2] - box[0]).toFixed(0)} x ${(box[3] - box[1]).toFixed(0)}`;
}

function scoreText(score) {
  return score >= 0.01 || score === 0 ? score.toFixed(2) : score.toExponential(0);
}

// Entries [step, title, text] of the history of a path.
function historyOf(path) {
  const entries = [];
  if (data.anchors && path[0] >= 0) entries.push(["anchors", "Anchor", anchorText(path[0])]);
  if (proposalStage >= 0 && path[proposalStage] >= 0) entries.push(...proposalEntries(path[proposalStage]));
  const region = regionOf(path);
  if (region >= 0) entries.push(...regionEntries(region));
  stages.forEach((stage, at) => {
    if (path[at] >= 0 && stage.name.startsWith("boxes of stage")) entries.push(["boxes", capital(stage.name), movedText(at, path[at])]);
  });
  if (boxesStage >= 0 && path[boxesStage] >= 0) entries.push(...boxEntries(path[boxesStage]));
  stages.forEach((stage, at) => {
    if (path[at] >= 0 && stage.name === "corrected scores") {
      entries.push(["result", "Corrected score", `${scoreText(stages[at].scores[path[at]])}; place ${stage.places.get(path[at]) + 1} of ${stage.kept.length}`]);
    }
  });
  const number = detectionOf(path);
  if (number >= 0) entries.push(...detectionEntries(number));
  return entries;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function anchorText(row) {
  const box = boxAt(data.anchors.boxes, row), [y, x] = data.anchors.cells.slice(3 * row, 3 * row + 2);
  const cell = y < 0 ? "" : `, cell in row ${y}, column ${x}`;
  return `${data.levels[data.anchors.levels[row]].name}${cell}, ${sizeText(box)} pixels`;
}

function middleOf(box, axis) {
  return (box[axis] + box[axis + 2]) / 2;
}

function movedText(at, row) {
  const from = sourceBox(at, row), to = boxOf(at, row);
  const shift = [0, 1].map((axis) => middleOf(to, axis) - middleOf(from, axis)).map((value) => Math.round(10 * value) / 10 || 0);
  const signed = shift.map((value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`);
  return `centre moved by ${signed.join(", ")}, size ${sizeText(from)} → ${sizeText(to)} (IoU ${iou(from, to).toFixed(2)})`;
}

function fateText(at, row) {
  const stage = stages[at], fate = stage.fates[row], by = stage.suppressedBy[row];
  if (fate === FATE.suppressed) {
    if (by < 0) return "suppressed";
    return `suppressed by a box of score ${scoreText(stage.scores[by])} (IoU ${iou(boxOf(at, row), boxOf(at, by)).toFixed(2)})`;
  }
  const others = stage.suppressedRows.get(row);
  const text = fate === FATE.kept ? `kept, place ${stage.places.get(row) + 1} of ${stage.kept.length}` : FATE_TEXT[fate];
  return others ? `${text}; it suppressed ${others.length} ${others.length === 1 ? "box" : "boxes"}` : text;
}

function proposalEntries(row) {
  const stage = stages[proposalStage], level = data.levels[stage.classes[row]];
  const rank = level ? `, rank ${stage.ranks[row].toLocaleString("en")} of ${level.count.toLocaleString("en")} on ${level.name}` : "";
  const entries = [["scores", "Objectness", `${scoreText(stage.scores[row])}${rank}`]];
  if (stage.fates[row] === FATE.notInTopK) return [...entries, ["anchors", "Top k", FATE_TEXT[FATE.notInTopK]]];
  return [...entries, ["refine", "Proposal", movedText(proposalStage, row)], ["nms", "NMS of proposals", fateText(proposalStage, row)]];
}

function regionEntries(region) {
  const { pooling, classes, scores } = data.regions, entries = [];
  if (pooling) {
    entries.push(["levels", "Pooled from", `${pooling.names[pooling.levels[region]]}, ${pooling.side} x ${pooling.side} bins`]);
  }
  const best = classes[region].slice(0, 3).map((index, place) => `${className(index)} (${scoreText(scores[region][place] / 1e4)})`);
  return [...entries, ["classes", "Class scores", best.join(", ")]];
}

function boxEntries(row) {
  const stage = stages[boxesStage], name = className(stage.classes[row]);
  const title = boxesStage === 0 ? "Box" : `Box of class ${name}`;
  const entries = [];
  if (boxesStage === 0) entries.push(["scores", "Class score", `${name} (${scoreText(stage.scores[row])})`]);
  return [...entries, [boxesStage === 0 ? "refine" : "boxes", title, movedText(boxesStage, row)],
    ["classnms", `NMS of class ${name}`, fateText(boxesStage, row)]];
}

function detectionEntries(number) {
  const found = data.detections[number], entries = [];
  const edges = found.box.map((edge) => edge.toFixed(1)).join(", ");
  entries.push(["result", `Detection #${number + 1}`, `${className(found.class)} (${scoreText(found.score)}), box ${edges} in pixels of the file`]);
  if (found.area !== null) entries.push([data.masks ? "soft" : "result", "Mask", `${found.area.toLocaleString("en")} pixels of the file`]);
  return entries;
}
