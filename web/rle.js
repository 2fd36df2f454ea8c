// Decodes COCO's compressed run-length encoding, in which the server returns masks.

/** Returns the lengths of the runs in `text`, alternately outside and inside of the class. */
function runs(text) {
  const lengths = [];
  let at = 0;
  while (at < text.length) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(at) - 48;
      value |= (code & 31) << shift;
      shift += 5;
      at += 1;
    } while (code & 32 && at < text.length);
    if (code & 16 && shift < 32) value |= -1 << shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

/** Returns the class of each pixel, row by row, as `{ width, height, classes }`. Runs go down the columns. */
export function classMap(mask) {
  const [height, width] = mask.size;
  const classes = new Uint16Array(width * height);
  for (const { class_id: id, counts } of mask.data) {
    let pixel = 0;
    let inside = false;
    for (const length of runs(counts)) {
      const end = Math.min(pixel + length, classes.length);
      if (inside && id !== 0) {
        for (let i = pixel; i < end; i += 1) classes[(i % height) * width + Math.floor(i / height)] = id;
      }
      pixel = end;
      inside = !inside;
    }
  }
  return { width, height, classes };
}
