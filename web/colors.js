// Colors of classes, the same in boxes, masks and legends.

const cache = new Map();

/** Returns the color of a class as [red, green, blue]. Hues of neighboring ids are far apart. */
export function rgb(classId) {
  if (!cache.has(classId)) {
    const hue = (classId * 137.508 + 12) % 360;
    const lightness = classId % 3 === 1 ? 0.68 : 0.58;
    const amplitude = 0.75 * Math.min(lightness, 1 - lightness);
    const channel = (offset) => {
      const k = (offset + hue / 30) % 12;
      return Math.round(255 * (lightness - amplitude * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    cache.set(classId, [channel(0), channel(8), channel(4)]);
  }
  return cache.get(classId);
}

/** Returns the color of a class, and the color of text on it with the higher contrast, as CSS custom properties. */
export function colorStyle(classId) {
  const color = rgb(classId);
  const linear = color.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return { '--color': `rgb(${color.join(' ')})`, '--on-color': luminance > 0.179 ? '#000' : '#fff' };
}
