"""How the pages of the report look, on wide and narrow screens and on paper."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<nav><input type="checkbox" id="contents"><label for="contents">Contents</label>
<div class="menu">{menu}</div></nav>
<main>{body}</main>
</body>
</html>
"""

_SCREEN = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: #1a1a1a; background: #fff; display: flex; }
nav { flex: 0 0 15rem; padding: 1.2rem .8rem; background: #f4f6f8; border-right: 1px solid #dde2e7;
      height: 100vh; position: sticky; top: 0; overflow: auto; font-size: .88rem; }
nav a, nav summary { display: block; padding: .22rem .5rem; border-radius: .3rem; color: #234;
      text-decoration: none; font-weight: 400; cursor: pointer; }
nav details { margin: 0; padding: 0; background: none; }
nav details > a { margin-left: .9rem; }
nav summary::after { content: " \\25B8"; color: #789; } nav details[open] > summary::after { content: " \\25BE"; }
nav a[aria-current], nav a:hover, nav summary:hover { background: #dfe8f1; }
nav a[aria-current] { font-weight: 600; }
#contents { position: absolute; opacity: 0; } nav label { display: none; }
main { flex: 1 1 auto; max-width: 70rem; min-width: 0; padding: 1.5rem 2.5rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.25; } h2 { margin-top: 2.2rem; font-size: 1.3rem; }
.anchor-link, .prompt { display: none; }
img { max-width: 100%; height: auto; }
math[display=block] { margin: 1rem 0; font-size: 1.1em; padding-block: .4rem; overflow: auto hidden; }
pre { margin: .5rem 0; padding: .6rem .8rem; overflow-x: auto; font-size: .84rem; line-height: 1.45; }
p, li { overflow-wrap: break-word; }
.highlight pre { background: #f7f7f5; border: 1px solid #e6e6e1; border-radius: .4rem; }
.output_area pre, .jp-OutputArea pre { background: none; border-left: 3px solid #cdd6df; white-space: pre-wrap;
      overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; border: 0; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .26rem .5rem; border: 0; border-bottom: 1px solid #e2e2e2; text-align: left; vertical-align: top;
      white-space: nowrap; }
th { background: #f4f6f8; } thead th { white-space: normal; }
[data-long] { white-space: normal; min-width: 18ch; overflow-wrap: break-word; }
.claims { table-layout: fixed; width: 100%; min-width: 46rem; }
.claims th, .claims td { white-space: normal; min-width: 0; }
.claims .col0 { width: 27%; } .claims .col1, .claims .col3 { width: 17%; } .claims .col4 { width: 11%; }
details { margin: .5rem 0; padding: .4rem .8rem; background: #f7f9fb; border-radius: .4rem; }
summary { cursor: pointer; font-weight: 600; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; }
.tile { margin: 0; padding: .7rem; border: 1px solid #dde2e7; border-radius: .4rem; overflow: hidden; }
.tile table { font-size: .68rem; } .tile th, .tile td { padding: .2rem .3rem; white-space: normal; min-width: 0; }
figcaption { font-size: .82rem; margin-top: .4rem; overflow-wrap: anywhere; }
"""

_NARROW = """
@media screen and (max-width: 50rem) {
  body { display: block; } main { padding: 1rem 1rem 3rem; }
  nav { height: auto; position: static; padding: .6rem 1rem; border: 0; border-bottom: 1px solid #dde2e7; }
  nav label { display: block; font-weight: 600; cursor: pointer; padding: .3rem 0; }
  nav label::after { content: " \\25B8"; } #contents:checked + label::after { content: " \\25BE"; }
  #contents:focus-visible + label { outline: 2px solid #357; }
  .menu { display: none; } #contents:checked ~ .menu { display: block; }
  .claims, .claims tbody, .claims tr, .claims td { display: block; width: auto !important; min-width: 0; }
  .claims thead { display: none; } .claims tr { border-bottom: 2px solid #cdd6df; padding: .4rem 0; }
  .claims td { border: 0; padding: .1rem .2rem; white-space: normal; min-width: 0; }
  .claims td.col0 { font-weight: 600; }
  .claims td::before { color: #567; } .claims td.col1::before { content: "Paper: "; }
  .claims td.col2::before { content: "Ours: "; } .claims td.col3::before { content: "Tolerance: "; }
}
"""

# A table's letters are so small that its widest row, of --chars characters, fits the page.
_PAPER = """
@page { size: A4; margin: 12mm; }
@media print {
  nav { display: none; } body { display: block; font-size: 10pt; } main { max-width: none; padding: 0; }
  h1 { font-size: 17pt; } h2 { font-size: 13pt; margin-top: 1.2rem; } h1, h2, h3 { break-after: avoid; }
  img, figure, tr, .tile, math { break-inside: avoid; } thead { display: table-header-group; }
  img { max-height: 240mm; }
  math[display=block] { overflow: visible; font-size: 1em; }
  pre, .highlight pre { font-size: 7pt; line-height: 1.3; padding: .3rem .5rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
  .wide { overflow: visible; }
  table { font-size: clamp(4pt, calc(186mm / var(--chars, 100) / .62), 8pt); }
  th, td { padding: .2em .5em; white-space: normal; } [data-long] { min-width: 0; overflow-wrap: anywhere; }
  .claims { min-width: 0; font-size: 7.5pt; }
  details { padding: .2rem .6rem; } details::details-content { content-visibility: visible; }
  .gallery { grid-template-columns: repeat(3, 1fr); gap: 4mm; } .tile { padding: 2mm; }
  .tile img { max-height: 45mm; display: block; margin: auto; } .tile table { font-size: 5.5pt; }
  figcaption { font-size: 7pt; }
}
"""

STYLE = _SCREEN + _NARROW + _PAPER
