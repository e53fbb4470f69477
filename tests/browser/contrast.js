// Returns a line for each visible text whose contrast is below WCAG 2.2 AA (1.4.3), and for each key colour below 3:1 (1.4.11).
const parse = (text) => text.match(/[\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ratio = (one, other) => {
  const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
};
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const element = node.parentElement;
  if (!node.textContent.trim() || !element.checkVisibility() || element.closest("noscript")) continue;
  const style = getComputedStyle(element);
  const size = parseFloat(style.fontSize), isBold = Number(style.fontWeight) >= 700;
  const wanted = size >= 24 || (isBold && size >= 18.66) ? 3 : 4.5;
  const found = ratio(parse(style.color), ground(element));
  if (found < wanted) bad.push(`${found.toFixed(2)} < ${wanted}: ${node.textContent.trim().slice(0, 40)}`);
}
for (const key of document.querySelectorAll(".key")) {
  const found = ratio(parse(getComputedStyle(key).backgroundColor), ground(key.parentElement));
  if (found < 3) bad.push(`${found.toFixed(2)} < 3: ${key.className}`);
}
return bad;
