"""The report's style sheet: one column of text, system fonts, colours for light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d1f23; --muted: #6d7078; --hair: #e7e4dc;
  --accent: #1f6f63; --good: #2f8f5b; --bad: #c05a38; --well: #f1efe9;
  --line-0: #1f6f63; --line-1: #d9772b; --line-2: #5566c9; --line-3: #b3446c; --line-4: #8a8f2e;
  --line-5: #5f7f95;
  --serif: ui-serif, "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif;
  --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1d2024; --ink: #e8e6e1; --muted: #989ba3; --hair: #30343a;
    --accent: #6cc5b4; --good: #6fcf97; --bad: #e8926f; --well: #24282d;
    --line-0: #6cc5b4; --line-1: #f0a35e; --line-2: #93a1f2; --line-3: #e58bac; --line-4: #c9cd6a;
    --line-5: #9db8ca;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 var(--sans); font-variant-numeric: tabular-nums;
}
main { max-width: 1120px; margin: 0 auto; padding: 56px 28px 96px; }
h1, h2 { font-family: var(--serif); font-weight: 600; letter-spacing: -0.01em; }
h1 { font-size: 44px; line-height: 1.1; margin: 6px 0 14px; overflow-wrap: anywhere; }
h2 { font-size: 26px; margin: 0 0 4px; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 8px; }
section { margin-top: 64px; }
p { margin: 0; }
.lead { color: var(--muted); margin-bottom: 22px; max-width: 84ch; }
.eyebrow, dt, .label {
  font-size: 11.5px; letter-spacing: 0.07em; text-transform: uppercase; color: var(--muted);
}
.facts { display: flex; flex-wrap: wrap; gap: 14px 36px; margin: 24px 0 0; }
.facts div { min-width: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
.track { height: 4px; border-radius: 2px; background: var(--hair); margin-top: 28px; }
.track i { display: block; height: 100%; border-radius: 2px; background: var(--accent); }
.grid { display: grid; gap: 18px; }
.cards { grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.samples { grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
.card {
  background: var(--card); border: 1px solid var(--hair); border-radius: 12px; padding: 18px 20px;
  min-width: 0;
}
.big { font: 600 38px/1.15 var(--serif); letter-spacing: -0.02em; }
.card table { width: 100%; border-collapse: collapse; margin-top: 12px; font-size: 13.5px; }
.card td { padding: 4px 0; border-top: 1px solid var(--hair); vertical-align: top; }
.card td:first-child { padding-right: 14px; }
.card td:last-child { text-align: right; }
.muted, .card td:first-child { color: var(--muted); }
.charts svg { width: 100%; height: auto; display: block; margin-top: 6px; }
svg text { font-family: var(--sans) !important; fill: var(--muted); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; color: var(--muted); }
.stack { display: flex; height: 14px; border-radius: 4px; overflow: hidden; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px; }
.legend b { color: var(--ink); font-weight: 600; }
.legend i {
  display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px;
}
.warning { color: var(--bad); font-size: 13px; }
.sample { padding: 0; overflow: hidden; }
.sample > img {
  width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--well); display: block;
}
.sample > div { padding: 14px 16px 16px; }
.sample .caption { font: 16.5px/1.35 var(--serif); overflow-wrap: anywhere; }
.sample .references {
  font-size: 13px; line-height: 1.4; margin: 10px 0 0; padding: 0; list-style: none;
  color: var(--muted);
}
.references li { margin-top: 5px; }
.card.history table { margin-top: 0; }
.history tr:first-child td { border-top: 0; }
.history td:first-child { padding-right: 12px; white-space: nowrap; }
.history td:last-child { text-align: left; overflow-wrap: anywhere; }
.looks {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(104px, 22%), 1fr));
  gap: 14px 10px;
  padding: 18px 0; border-top: 1px solid var(--hair);
}
.looks figure { margin: 0; max-width: 128px; }
.looks figcaption { font-size: 13px; text-align: center; overflow-wrap: anywhere; }
.look, .look i {
  display: block; width: 100%; aspect-ratio: var(--aspect); border-radius: 6px;
  background: var(--plot) center / 100% 100%;
}
.look { margin-bottom: 4px; overflow: hidden; position: relative; }
.look::before {
  content: ""; position: absolute; inset: 0; background: inherit;
  filter: grayscale(0.85) brightness(0.35);
}
.look i { position: absolute; inset: 0; mask: var(--light) center / 100% 100% no-repeat; }
.look.whole::before { filter: none; }
.row { display: flex; justify-content: space-between; gap: 8px; margin-top: 8px; font-size: 13px; }
.badge { color: var(--good); font-weight: 600; }
.query {
  display: grid; grid-template-columns: minmax(150px, 250px) 1fr; gap: 24px; align-items: center;
  padding: 16px 0; border-top: 1px solid var(--hair);
}
.query .text { font: 17px/1.35 var(--serif); }
.query > img { width: 112px; height: 112px; object-fit: contain; border-radius: 8px; }
.found { display: grid; grid-template-columns: repeat(5, minmax(0, 128px)); gap: 12px; }
.found figure { margin: 0; text-align: center; font-size: 12px; color: var(--muted); }
.found img {
  width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--well); display: block;
  border-radius: 8px; outline: 1px solid var(--hair); margin-bottom: 5px;
}
.found .right img { outline: 3px solid var(--good); }
.found .right { color: var(--good); font-weight: 600; }
.texts { list-style: none; margin: 0; padding: 0; max-width: 640px; }
.texts li { display: flex; gap: 12px; padding: 2px 0; color: var(--muted); }
.texts .right { color: var(--ink); }
.texts .mark { width: 1em; color: var(--good); font-weight: 600; }
.texts .score { margin-left: auto; font-size: 13px; }
.scroll { overflow-x: auto; }
.wide { border-collapse: collapse; font-size: 13.5px; }
.wide th, .wide td { padding: 6px 14px 6px 0; text-align: right; white-space: nowrap; }
.wide th { font-weight: 600; color: var(--muted); }
.wide th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
.wide tr + tr > * { border-top: 1px solid var(--hair); }
.dots circle { fill: var(--accent); fill-opacity: 0.55; }
.dots line { stroke: var(--hair); }
.dots .mean { stroke: var(--accent); stroke-width: 2.5; }
.confusion { width: 100%; min-width: 300px; height: auto; }
.confusion rect {
  fill: color-mix(in srgb, var(--tone) calc(var(--depth) * 90%), var(--well));
}
.confusion .right { --tone: var(--good); }
.confusion .wrong { --tone: var(--bad); }
details > summary { cursor: pointer; color: var(--accent); font-weight: 600; padding: 6px 0; }
.config { grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.config table { font: 12.5px/1.5 var(--mono); margin-top: 0; }
.config td:first-child { padding-right: 16px; white-space: nowrap; }
.config td { overflow-wrap: anywhere; }
footer { margin-top: 72px; padding-top: 18px; border-top: 1px solid var(--hair); font-size: 13px; }
@media (max-width: 640px) {
  main { padding: 32px 16px 64px; }
  h1 { font-size: 32px; }
  .query { grid-template-columns: 1fr; gap: 10px; }
  .sample { display: grid; grid-template-columns: 112px 1fr; align-items: start; }
}
"""
