"use strict";
// The sliders of the plan. Devices and model size choose a cell that the planner worked out; all else only scales it.
const { fleet, chips, bands, from_scratch, alone, explored } = JSON.parse(document.getElementById("data").textContent);
const { devices, models, cells, own, settings, loss, capacity } = explored;
const $ = (id) => document.getElementById(id);
const sum = (items) => Object.values(items).reduce((total, one) => total + one, 0);
const words = (name) => name.replaceAll("_", " ");

// Amounts, said as everywhere else.
const digits = (number, most = 3) => Number(number.toPrecision(most)).toLocaleString("en-US", { maximumFractionDigits: 12 });
const whole = (number) => Math.round(number).toLocaleString("en-US");
const scaled = (number, steps) => {
  const [unit, size] = steps.find(([, least]) => Math.abs(number) >= least) ?? steps.at(-1);
  return digits(number / size) + unit;
};
const count = (number) => scaled(number, [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]]);
const money = (usd) => "$" + (usd >= 1e9 ? (usd / 1e9).toFixed(2) + "B" : usd >= 1e6 ? (usd / 1e6).toFixed(1) + "M" : usd >= 1e3 ? whole(usd) : usd >= 0.01 || usd === 0 ? usd.toFixed(2) : digits(usd, 2));
const bytes = (number) => scaled(number / 1024 ** 3, [[" TiB", 1024], [" GiB", 1], [" MiB", 1 / 1024]]);
const energy = (mwh) => scaled(mwh, [[" GWh", 1e3], [" MWh", 1], [" kWh", 1e-3], [" Wh", 1e-6]]);
const mass = (tonnes) => (tonnes >= 1 ? whole(tonnes) + " t" : scaled(tonnes, [[" kg", 1e-3], [" g", 1e-6]]));
const share = (part) => (100 * part).toFixed(part < 0.995 ? 0 : 1) + "%";
const time = (seconds) => {
  if (seconds >= 48 * 3600) return (seconds / 86400).toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) + " days";
  if (seconds >= 3600) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  if (seconds >= 60) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return seconds >= 10 ? Math.round(seconds) + " s" : seconds >= 0.1 ? seconds.toFixed(1) + " s" : digits(seconds * 1e3, 2) + " ms";
};

// The sliders: what each holds for the plan itself, how its position becomes a value, and how the value is said.
const dials = {
  devices: { at: own.devices, value: (index) => index, say: (index) => whole(devices[index]) },
  model: { at: own.model, value: (index) => index, say: (index) => `${count(models[index])} parameters` },
  tokens: { at: 0, value: (tens) => own.tokens * 10 ** tens, say: count },
  price: { at: 0, value: (twos) => settings.price * 2 ** twos, say: (usd) => `${money(usd)} a device-hour` },
  pue: { at: settings.pue, value: (pue) => pue, say: (pue) => pue.toFixed(2) },
  kwh: { at: settings.kwh, value: (usd) => usd, say: (usd) => `$${usd.toFixed(3)} a kWh` },
  grid: { at: settings.grid, value: (grams) => grams, say: (grams) => `${whole(grams)} g CO₂ a kWh` },
};
const state = {};

function calendar(days, count) {
  const ramp = settings.delivered_per_week ? (7 * count) / settings.delivered_per_week : 0;
  return settings.burn_in_days + (days < ramp / 2 ? Math.sqrt(2 * ramp * days) : ramp / 2 + days);
}

/** What a size of fleet takes with the sliders as they are; null where no layout exists. */
function outcome(index, model = state.model) {
  const cell = cells[model][index];
  if (!cell.run) return null;
  const scale = state.tokens / own.tokens;
  const hours = cell.run.device_hours * scale;
  const mwh = cell.run.energy_mwh === null ? null : (cell.run.energy_mwh * scale * state.pue) / settings.pue;
  const rest = cell.run.cost_owned === null ? null : (cell.run.cost_owned - cell.owned_energy) * scale;
  const parameters = models[model];
  return {
    cell,
    days: cell.run.days * scale,
    calendar_days: calendar(cell.run.days * scale, devices[index]),
    device_hours: hours,
    cost: settings.price ? state.price * hours : null,
    cost_owned: rest === null ? null : rest + mwh * 1e3 * state.kwh,
    energy_mwh: mwh,
    energy_cost: mwh === null ? null : mwh * 1e3 * state.kwh,
    carbon_t: mwh === null ? null : (mwh * state.grid) / 1e3,
    failures: alone ? null : cell.run.failures * scale,
    goodput: alone ? null : cell.goodput,
    mfu: cell.mfu,
    step_s: sum(cell.step),
    memory_bytes: sum(cell.memory),
    loss: !from_scratch ? null : loss.E + loss.A / parameters ** loss.alpha + loss.B / state.tokens ** loss.beta,
  };
}

const FACTS = {
  calendar_days: ["Calendar", (days) => time(days * 86400)],
  cost: ["Rent", money],
  cost_owned: ["Owned", money],
  energy_mwh: ["Energy", energy],
  energy_cost: ["Electricity", money],
  carbon_t: ["Carbon dioxide", mass],
  memory_bytes: ["Memory per device", bytes],
  step_s: ["One step", time],
  mfu: ["MFU", share],
  goodput: ["Goodput", share],
  failures: ["Failures", whole],
  loss: ["Loss, nats per token", (nats) => nats.toFixed(3)],
};
let planned;

function change(value, before) {
  const ratio = value / before - 1;
  if (Math.abs(ratio) < 0.005) return "as planned";
  return ratio > 9 ? `${digits(value / before, 2)} × the plan` : `${Math.abs(100 * ratio).toFixed(0)}% ${ratio > 0 ? "more" : "less"} than planned`;
}

function band(name, value, say) {
  if (!bands[name]) return "";
  const [low, high] = bands[name];
  if (Math.abs(2 - low - high) < 0.01) return `±${share(high - 1)}`;
  const [from, to] = [say(value * low), say(value * high)];
  const unit = to.match(/ \S+$/)?.[0];
  return `${unit && from.endsWith(unit) ? from.slice(0, -unit.length) : from} to ${to}`;
}

function showOutcome(found) {
  const told = $("told");
  told.classList.toggle("fault", !found);
  $("outcome").classList.toggle("stale", !found);
  if (!found) {
    const { why, remedy } = cells[state.model][state.devices];
    told.textContent = `No layout: ${why}. ${remedy}.`;
    return;
  }
  const what = `${count(models[state.model])} parameters on ${count(state.tokens)} tokens ${alone ? "on this machine" : `with ${whole(devices[state.devices])} × ${fleet.device}`}`;
  const bill = found.cost === null ? "" : ` and ${money(found.cost)}`;
  told.textContent = `${what}: ${time(found.days * 86400)}${bill}.`;
  $("outcome").replaceChildren(
    ...Object.entries(FACTS).filter(([name]) => found[name] !== null).map(([name, [label, say]]) => {
      const fact = document.createElement("div");
      fact.innerHTML = `<dt>${label}</dt><dd><span class="told"></span><span class="note"><span class="tag predicted">predicted</span></span><span class="note"></span></dd>`;
      const value = fact.querySelector(".told");
      value.textContent = say(found[name]);
      value.dataset.name = name;
      value.dataset.value = found[name];
      const [rests, changed] = fact.querySelectorAll("dd > .note");
      rests.append(band(name, found[name], say));
      changed.textContent = change(found[name], planned[name]);
      return fact;
    }),
  );
}

function showMemory(cell) {
  const total = sum(cell.memory);
  $("memory-total").textContent = `${bytes(total)} of ${bytes(capacity)}`;
  const items = Object.entries(cell.memory);
  const order = Object.keys(fleet.memory_items_bytes);
  const bar = items.map(([name, value]) => `<span class="c${order.indexOf(name)}" style="flex-grow:${value / capacity}" title="${words(name)} ${bytes(value)}"></span>`);
  const legend = items.map(([name, value]) => `<li><i class="key c${order.indexOf(name)}"></i>${words(name)} <b>${bytes(value)}</b></li>`);
  $("memory").innerHTML = `<div class="bar" role="img" aria-label="${bytes(total)} of ${bytes(capacity)}">${bar.join("")}
    <span class="free" style="flex-grow:${Math.max(0, 1 - total / capacity)}"></span></div><ul class="legend">${legend.join("")}</ul>`;
}

function showStep(cell) {
  const total = sum(cell.step);
  $("step-total").textContent = `${time(total)}, ${count((fleet.tokens_per_step / total))} tokens a second`;
  let start = 0;
  const rows = Object.entries(cell.step).map(([name, value]) => {
    const row = `<span>${words(name)}</span><div class="track"><i style="margin-left:${(100 * start) / total}%;width:${(100 * value) / total}%"></i></div><b>${time(value)}</b>`;
    start += value;
    return value > 0.002 * total ? row : "";
  });
  $("step").innerHTML = rows.join("");
}

// The Pareto plot: a point per size of fleet, filled where nothing is both faster and cheaper; other chips as diamonds.
function ticks(low, high) {
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 }, (_, more) => 10 ** (Math.floor(Math.log10(low)) + more));
  const among = (steps) => powers.flatMap((power) => steps.map((step) => step * power)).filter((tick) => tick >= low && tick <= high);
  return [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]].map(among).find((found) => found.length > 2) ?? among([1, 2, 5]);
}
const svg = (name, attributes, text = "") =>
  `<${name} ${Object.entries(attributes).map(([key, value]) => `${key}="${value}"`).join(" ")}>${text}</${name}>`;

function showPareto() {
  const against = document.querySelector("[name=against]:checked").value;
  const say = against === "cost" ? money : energy;
  const fleets = devices.map((count, index) => ({ index, name: `${whole(count)} devices`, ...(outcome(index) ?? {}) }));
  const scale = state.tokens / own.tokens;
  const others = state.model === own.model
    ? chips.filter((chip) => chip.device !== fleet.device).map((chip) => ({ name: chip.device, days: chip.days * scale, cost: chip.cost && chip.cost * scale, energy_mwh: chip.energy_mwh && (chip.energy_mwh * scale * state.pue) / settings.pue }))
    : [];
  const known = (points) => points.filter((point) => point.days && point[against]);
  const [own_points, chip_points] = [known(fleets), known(others)];
  const all = [...own_points, ...chip_points];
  if (!all.length) return void ($("pareto").textContent = `No ${against === "cost" ? "price" : "power"} is known.`);
  const width = Math.max(280, $("pareto").clientWidth), height = 330, left = 58, right = 12, top = 22, bottom = 40;
  const range = (key) => [Math.min(...all.map((one) => one[key])) / 1.25, Math.max(...all.map((one) => one[key])) * 1.25];
  const place = (low, high, from, to) => (value) => from + ((to - from) * Math.log(value / low)) / Math.log(high / low);
  const [x_range, y_range] = [range("days"), range(against)];
  const x = place(...x_range, left, width - right), y = place(...y_range, height - bottom, top);
  const best = (point, points) => !points.some((one) => one.days < point.days && one[against] <= point[against]);
  const parts = [svg("text", { x: 0, y: 11 }, against === "cost" ? "money" : "energy")];
  for (const tick of ticks(...x_range)) parts.push(svg("line", { class: "rule", x1: x(tick), x2: x(tick), y1: top, y2: height - bottom }), svg("text", { x: x(tick), y: height - 22, "text-anchor": "middle" }, digits(tick)));
  for (const tick of ticks(...y_range)) parts.push(svg("line", { class: "rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }), svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, say(tick).replace(".0", "")));
  parts.push(svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "days"));
  parts.push(svg("path", { d: own_points.map((one, order) => `${order ? "L" : "M"}${x(one.days)},${y(one[against])}`).join("") }));
  const frontier = [];
  for (const one of chip_points) {
    const [at_x, at_y] = [x(one.days), y(one[against])];
    parts.push(svg("rect", { class: "chip", x: at_x - 4.5, y: at_y - 4.5, width: 9, height: 9, transform: `rotate(45 ${at_x} ${at_y})` }, `<title>${one.name}: ${time(one.days * 86400)}, ${say(one[against])}</title>`));
    if (best(one, chip_points)) frontier.push([at_x, at_y, one.name]);
  }
  for (const one of own_points) {
    const [at_x, at_y] = [x(one.days), y(one[against])], here = one.index === state.devices;
    parts.push(svg("circle", { class: `point${best(one, own_points) ? " best" : ""}${here ? " here" : ""}`, "data-index": one.index, cx: at_x, cy: at_y, r: here ? 7 : 5 }, `<title>${one.name}: ${time(one.days * 86400)}, ${say(one[against])}</title>`));
    if (here) frontier.push([at_x, at_y, one.name]);
  }
  const taken = all.map((one) => [x(one.days) - 7, x(one.days) + 7, y(one[against]) + 4]);
  for (const [at_x, at_y, name] of frontier.reverse()) {
    const long = 6.6 * name.length;
    const sides = [[at_x + 11, at_y + 4], [at_x - 11 - long, at_y + 4], [at_x - long / 2, at_y + 22], [at_x - long / 2, at_y - 13], [at_x - 5, at_y - 12], [at_x - 5, at_y + 21]];
    const free = ([from, line]) => from > left && from + long < width && taken.every(([start, end, other]) => from > end || from + long < start || Math.abs(line - other) > 13);
    const side = sides.find(free);
    if (!side) continue;
    taken.push([side[0], side[0] + long, side[1]]);
    parts.push(svg("text", { class: "name", x: side[0], y: side[1] }, name));
  }
  const spoken = own_points.map((one) => `${one.name}: ${time(one.days * 86400)}, ${say(one[against])}`).join("; ");
  $("pareto").innerHTML = svg("svg", { role: "img", width, height, "aria-label": `Time against ${against === "cost" ? "money" : "energy"}. ${spoken}` }, parts.join(""));
  $("pareto-legend").innerHTML = `<li><i class="key dot c0"></i>${fleet.device} by number of devices; hollow: another is faster and cheaper</li>${chip_points.length ? `<li><i class="key c1"></i>${whole(fleet.devices)} of other chips</li>` : ""}`;
}

function showFleets() {
  const heads = ["Devices", "Time", "Rent", "Energy", "Memory", "MFU", "Layout"];
  const rows = devices.map((count, index) => {
    const found = outcome(index), cell = cells[state.model][index];
    if (!found) return `<tr><th scope="row">${whole(count)}</th><td data-head="Layout" colspan="6">no layout: ${cell.why}</td></tr>`;
    const values = [time(found.days * 86400), found.cost === null ? "unknown" : money(found.cost), found.energy_mwh === null ? "unknown" : energy(found.energy_mwh), bytes(found.memory_bytes), share(found.mfu),
      Object.entries(cell.layout).map(([name, value]) => `${name} ${value}`).join(", ")];
    return `<tr><th scope="row">${whole(count)}</th>${values.map((value, column) => `<td data-head="${heads[column + 1]}">${value}</td>`).join("")}</tr>`;
  });
  $("fleets").querySelector(".scroll").innerHTML = `<table><thead><tr>${heads.map((head) => `<th scope="col">${head}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
}

function show() {
  const found = outcome(state.devices);
  for (const [name, dial] of Object.entries(dials)) {
    const said = dial.say(state[name]);
    $(`${name}-value`).textContent = said;
    $(name).setAttribute("aria-valuetext", said);
  }
  showOutcome(found);
  if (found) showMemory(found.cell), showStep(found.cell);
  showPareto();
  showFleets();
  $("dials").querySelector("button").disabled = Object.entries(dials).every(([name, dial]) => state[name] === dial.value(dial.at));
}

function reset() {
  for (const [name, dial] of Object.entries(dials)) {
    state[name] = dial.value(dial.at);
    $(name).value = dial.at;
  }
}

$("dials").addEventListener("input", ({ target }) => {
  state[target.id] = dials[target.id].value(Number(target.value));
  show();
});
$("dials").addEventListener("reset", (event) => {
  event.preventDefault();
  reset();
  show();
});
for (const radio of document.querySelectorAll("[name=against]")) radio.addEventListener("change", showPareto);
$("pareto").addEventListener("click", ({ target }) => {
  if (!target.dataset.index) return;
  $("devices").value = target.dataset.index;
  state.devices = Number(target.dataset.index);
  show();
});
addEventListener("resize", showPareto);

// The table of chips: sorted by a column's button, or by the list where there are no columns.
function sortChips(column, turn) {
  const heads = [...document.querySelectorAll("#chip-table thead [class=number]")];
  const up = !turn || heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head, index) => (index === column ? head.setAttribute("aria-sort", up ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
  const body = document.querySelector("#chip-table tbody");
  const value = (row) => { const { value: text } = row.cells[column + 1].dataset; return text === "" ? Infinity : (up ? 1 : -1) * Number(text); };
  body.append(...[...body.rows].sort((one, other) => value(one) - value(other) || 0));
}
document.querySelectorAll("#chip-table thead button").forEach((button, column) => button.addEventListener("click", () => sortChips(column, true)));
$("sort").addEventListener("change", ({ target }) => sortChips(target.selectedIndex, false));

reset();
planned = outcome(own.devices);
for (const [name, missing] of [["devices", devices.length < 2], ["price", !settings.price], ...["pue", "kwh", "grid"].map((name) => [name, planned.energy_mwh === null])])
  if (missing) $(name).closest("label").remove(), delete dials[name];
$("unscripted").remove();
$("trade").hidden = devices.length < 2;
document.querySelectorAll(`.explorer, .drawings${devices.length < 2 ? "" : ", #fleets"}`).forEach((part) => (part.hidden = false));
show();
