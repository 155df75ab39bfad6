// Drawing on the picture, in pixels of the resized image.

const canvas = document.getElementById("picture");
const pen = canvas.getContext("2d");
const picture = document.getElementById("resized-image");
const CANDIDATE = "#ffd24a", GOOD = "#2ee68a", BAD = "#ff5a4d", FAINT = "#b4bcc8", OBJECT = "#ffe14d";
// Dark violet to light yellow; brightness rises with the value.
const HEAT = [[13, 8, 52], [84, 15, 110], [170, 43, 98], [232, 96, 47], [251, 176, 45], [252, 255, 190]];
const ZOOM_SHARE = 0.4, MAX_ZOOM = 10; // part of the view that a box fills
const made = new Map(); // canvases by what they show

let unit = 1; // pixels of the resized image per CSS pixel
let corner = [0, 0]; // of the shown part of the image

// Fit the canvas into its frame, with the whole image, or the surroundings of a box.
function sizeCanvas(box) {
  const frame = canvas.parentElement, ratio = window.devicePixelRatio || 1;
  const highest = Math.max(240, window.innerHeight * 0.62);
  const width = Math.max(80, Math.min(frame.clientWidth, (highest * data.image.width) / data.image.height));
  const height = (width * data.image.height) / data.image.width;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const zoom = box ? zoomOf(box) : 1, shown = [data.image.width / zoom, data.image.height / zoom];
  unit = shown[0] / width;
  const limits = [data.image.width - shown[0], data.image.height - shown[1]];
  corner = limits.map((limit, axis) => (box ? Math.min(Math.max(middle(box)[axis] - shown[axis] / 2, 0), limit) : 0));
  pen.setTransform(ratio / unit, 0, 0, ratio / unit, (-corner[0] * ratio) / unit, (-corner[1] * ratio) / unit);
}

function zoomOf(box) {
  const { width, height } = data.image, share = Math.max((box[2] - box[0]) / width, (box[3] - box[1]) / height);
  return Math.min(Math.max(ZOOM_SHARE / Math.max(share, 0.01), 1), MAX_ZOOM);
}

function remembered(key, make) {
  if (!made.has(key)) made.set(key, make());
  return made.get(key);
}

function newCanvas(width, height) {
  const other = document.createElement("canvas");
  [other.width, other.height] = [width, height];
  return other;
}

function bytesOf(text) {
  return remembered(text, () => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
}

function heatColor(share) {
  const place = Math.min(Math.max(share, 0), 1) * (HEAT.length - 1), first = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[first].map((low, channel) => low + (HEAT[first + 1][channel] - low) * (place - first));
}

// A canvas of one pixel per value; where it fades, low values are transparent.
function heatCanvas(values, columns, rows, { isStretched = false, fades = false } = {}) {
  return remembered(`${isStretched} ${fades} ${columns} ${values}`, () => {
    const other = newCanvas(columns, rows), pixels = new ImageData(columns, rows), bytes = bytesOf(values);
    const highest = isStretched ? bytes.reduce((a, b) => Math.max(a, b), 1) : 255;
    bytes.forEach((value, place) => pixels.data.set([...heatColor(value / highest), fades ? 60 + (180 * value) / highest : 255], 4 * place));
    other.getContext("2d").putImageData(pixels, 0, 0);
    return other;
  });
}

function drawHeat(map, grid, look) {
  pen.save();
  pen.imageSmoothingEnabled = false;
  const drawn = heatCanvas(map.values, grid.columns, grid.rows, look);
  pen.drawImage(drawn, grid.left, grid.top, grid.columns * grid.stride, grid.rows * grid.stride);
  pen.restore();
}

// COCO's compressed run lengths: numbers of 5 bits per letter, differences from the third on.
function runLengths(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, letter;
    do {
      letter = text.charCodeAt(at) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
      at += 1;
    } while (letter & 32);
    if (letter & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// A mask in pixels of the image file, its border opaque.
function maskCanvas(text, color) {
  return remembered(`mask ${color} ${text}`, () => {
    const [width, height] = [data.image.originalWidth, data.image.originalHeight];
    const inside = new Uint8Array(width * height);
    let place = 0;
    runLengths(text).forEach((length, number) => {
      // Columns from left to right.
      if (number % 2) for (let at = place; at < place + length; at += 1) inside[(at % height) * width + Math.floor(at / height)] = 1;
      place += length;
    });
    const other = newCanvas(width, height), pixels = new ImageData(width, height), [red, green, blue] = channels(color);
    for (let at = 0; at < inside.length; at += 1) {
      if (!inside[at]) continue;
      const x = at % width;
      const isBorder = x === 0 || x === width - 1 || !inside[at - 1] || !inside[at + 1] || !inside[at - width] || !inside[at + width];
      pixels.data.set([red, green, blue, isBorder ? 255 : 110], 4 * at);
    }
    other.getContext("2d").putImageData(pixels, 0, 0);
    return other;
  });
}

function channels(color) {
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
}

function drawMask(text, color) {
  pen.save();
  pen.imageSmoothingEnabled = false;
  pen.drawImage(maskCanvas(text, color), 0, 0, data.image.width, data.image.height);
  pen.restore();
}

// Probabilities with a border of zeros, so that they fade out as pasted masks do.
function softCanvas(number, color) {
  return remembered(`soft ${number} ${color}`, () => {
    const side = data.masks.side, other = newCanvas(side + 2, side + 2), pixels = new ImageData(side, side);
    bytesOf(data.masks.values[number]).forEach((value, place) => pixels.data.set([...channels(color), value * 0.85], 4 * place));
    other.getContext("2d").putImageData(pixels, 1, 1);
    return other;
  });
}

function drawSoftMask(number, color, box) {
  const side = data.masks.side, width = (box[2] - box[0]) / side, height = (box[3] - box[1]) / side;
  pen.save();
  pen.imageSmoothingEnabled = true;
  pen.drawImage(softCanvas(number, color), box[0] - width, box[1] - height, width * (side + 2), height * (side + 2));
  pen.restore();
}

function drawBox(box, color, { width = 1.5, dash = [], opacity = 1, halo = false } = {}) {
  pen.save();
  pen.globalAlpha = opacity;
  pen.setLineDash(dash.map((length) => length * unit));
  if (halo) {
    pen.strokeStyle = "#000";
    pen.lineWidth = (width + 2.5) * unit;
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  }
  pen.strokeStyle = color;
  pen.lineWidth = width * unit;
  pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  pen.restore();
}

function middle(box) {
  return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
}

function drawArrow(from, to, color, opacity = 1) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]], length = Math.hypot(dx, dy), head = 5 * unit;
  pen.save();
  pen.globalAlpha = opacity;
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = 1.5 * unit;
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
  if (length > head / 2) {
    pen.translate(...to);
    pen.rotate(Math.atan2(dy, dx));
    pen.beginPath();
    pen.moveTo(0, 0);
    pen.lineTo(-head, head * 0.6);
    pen.lineTo(-head, -head * 0.6);
    pen.fill();
  }
  pen.restore();
}

function drawLabel(text, box, color) {
  const size = 12 * unit, pad = 3 * unit;
  pen.save();
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const width = pen.measureText(text).width + 2 * pad, height = size + 2 * pad;
  const x = Math.min(Math.max(box[0], 0), data.image.width - width);
  const y = Math.min(Math.max(box[1] >= height ? box[1] - height : box[1], 0), data.image.height - height);
  pen.fillStyle = color;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = "#111";
  pen.textBaseline = "middle";
  pen.fillText(text, x + pad, y + height / 2 + unit);
  pen.restore();
}

// The bins of a region, and the cells of the map that it is pooled from.
function drawBins(region) {
  const { pooling } = data.regions, area = boxAt(pooling.areas, region), side = pooling.side;
  const stride = pooling.strides[pooling.levels[region]];
  drawLines(area, gridLines(area[0], area[2], stride), gridLines(area[1], area[3], stride), "#0b4fd0", 0.8);
  const edges = [0, 1].map((axis) => binEdges(area[axis], area[axis + 2], side, pooling.hasRoundedBins ? stride : 0));
  drawLines(area, ...edges, "#ffffff", 0.95);
}

function gridLines(first, last, stride) {
  const lines = [];
  for (let at = Math.ceil(first / stride) * stride; at <= last; at += stride) lines.push(at);
  return lines;
}

// Borders of bins; of RoIPool the first cell of each bin and the end of its last cell.
function binEdges(first, last, side, stride) {
  const edges = [], cells = (last - first) / (stride || 1);
  for (let bin = 0; bin <= side; bin += 1) {
    const at = (bin * cells) / side;
    if (stride) edges.push(first + Math.floor(at) * stride, first + Math.ceil(at) * stride);
    else edges.push(first + at);
  }
  return edges;
}

function drawLines(area, columns, rows, color, opacity) {
  pen.save();
  pen.globalAlpha = opacity;
  pen.strokeStyle = color;
  pen.lineWidth = 1 * unit;
  pen.beginPath();
  for (const x of columns) { pen.moveTo(x, area[1]); pen.lineTo(x, area[3]); }
  for (const y of rows) { pen.moveTo(area[0], y); pen.lineTo(area[2], y); }
  pen.stroke();
  pen.restore();
}
