// A model card, README.md of a version, as elements of the page: the headings, tables,
// paragraphs and code that afd_tf/artifacts/model_card.py writes. Whatever else is in
// the text stays text, so that a card from anywhere can be shown.

const HEADING = /^(#{1,6}) (.*)/;
const FENCE = "```";

/**
 * Turns Markdown into elements.
 *
 * @param {string} text of a model card.
 * @returns {HTMLElement[]}
 */
export function readCard(text) {
  const lines = text.split(/\r?\n/);
  const elements = [];
  while (lines.length) {
    const heading = HEADING.exec(lines[0]);
    if (heading) {
      lines.shift();
      // Below the page's own.
      elements.push(inline(`h${Math.min(heading[1].length + 1, 6)}`, heading[2]));
    } else if (lines[0].startsWith(FENCE)) {
      lines.shift();
      const code = document.createElement("pre");
      code.textContent = take(lines, (line) => !line.startsWith(FENCE)).join("\n");
      code.tabIndex = 0; // A keyboard can scroll it.
      lines.shift();
      elements.push(code);
    } else if (lines[0].startsWith("|")) {
      elements.push(table(take(lines, (line) => line.startsWith("|"))));
    } else if (lines[0].trim()) {
      const own = take(
        lines,
        (line) => line.trim() && !/^(\||```)/.test(line) && !HEADING.test(line),
      );
      elements.push(inline("p", own.join(" ")));
    } else {
      lines.shift();
    }
  }
  return elements;
}

/** Removes and returns the first lines for which a condition holds. */
function take(lines, condition) {
  const end = lines.findIndex((line) => !condition(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function table(lines) {
  const rows = lines.map((line) =>
    line
      .replace(/^\||\|\s*$/g, "")
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim()),
  );
  const element = document.createElement("table");
  const [head, , ...body] = rows;
  if (head.some(Boolean)) {
    const row = element.createTHead().insertRow();
    row.append(...head.map((cell) => inline("th", cell)));
  }
  const section = element.createTBody();
  for (const cells of body) {
    section.insertRow().append(...cells.map((cell) => inline("td", cell)));
  }
  return element;
}

/** An element with a text in which `code` is code, and \ takes the next mark as it is. */
function inline(name, text) {
  const element = document.createElement(name);
  for (const [part, code] of text.matchAll(/`([^`]*)`|(?:\\.|[^`\\])+|./g)) {
    if (code === undefined) {
      element.append(part.replace(/\\([\\|`*_<[])/g, "$1"));
    } else {
      const inner = document.createElement("code");
      inner.textContent = code;
      element.append(inner);
    }
  }
  return element;
}
