"""Style sheet and script of the report."""

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#5b6470;--line:#dfe3e8;--good:#12803c;--bad:#c5221f;--wait:#8a6100}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1d2126;--ink:#e7eaee;--soft:#9aa4b0;--line:#333a42;--good:#4ccb7f;--bad:#ff7b72;--wait:#e3b341}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 22px 60px}
header{display:flex;flex-wrap:wrap;gap:8px 18px;align-items:center;margin-bottom:16px}
h1{font-size:26px;margin:0;overflow-wrap:anywhere}h2{font-size:19px;margin:34px 0 12px}h3{font-size:14px;font-weight:600;margin:0 0 4px}
.verdict{margin:0;padding:4px 12px;border-radius:8px;border:1px solid currentColor;font-size:14px}
.verdict span{color:var(--ink)}.good{color:var(--good)}.bad{color:var(--bad)}.wait{color:var(--wait)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden;margin:0}
.facts div{padding:8px 12px;box-shadow:0 0 0 .5px var(--line)}dt{color:var(--soft);font-size:12px}dd{margin:0;overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 12px 4px;min-width:0}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:14px}th,td{text-align:left;padding:7px 12px;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}th{font-weight:600;color:var(--soft);white-space:nowrap}td.num{font-variant-numeric:tabular-nums;white-space:nowrap}
table.wide td{min-width:170px;overflow-wrap:anywhere}table.wide thead th{color:var(--ink)}td.how{color:var(--soft);font-size:13px}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px}
.note{color:var(--soft);margin:0 0 10px}
.neighbours{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px}
.row{display:flex;gap:8px;margin-bottom:8px}figure{margin:0;width:84px;flex:none;font-size:12px;text-align:center}
figure img{width:84px;height:84px;object-fit:contain;image-rendering:pixelated;border-radius:5px;display:block;border:3px solid transparent}
figure.query{margin-right:14px}figure.query img{border-color:var(--soft)}figure.same img{border-color:var(--good)}figure.other img{border-color:var(--bad)}
figcaption{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--soft)}
.attention,.drawn{max-width:100%;image-rendering:pixelated}
.views{height:560px;max-width:100%;object-fit:contain;object-position:left top;image-rendering:pixelated}
details{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px;margin-bottom:10px}summary{cursor:pointer}
pre{overflow-x:auto;font-size:12.5px;line-height:1.45;margin:10px 0 0}
"""  # noqa: E501

SCRIPT = """
(function () {
  var charts = JSON.parse(document.getElementById('charts').textContent);
  var dark = window.matchMedia('(prefers-color-scheme: dark)');
  function themed(layout) {
    var ink = dark.matches ? '#c9d1d9' : '#3b434c', grid = dark.matches ? '#333a42' : '#e6e9ed';
    var axis = {gridcolor: grid, zerolinecolor: grid, linecolor: grid};
    return Object.assign({}, layout, {
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: ink, size: 12},
      xaxis: Object.assign({}, axis, layout.xaxis), yaxis: Object.assign({}, axis, layout.yaxis)
    });
  }
  function draw() {
    charts.forEach(function (chart, i) {
      Plotly.react('c' + i, chart.data, themed(chart.layout), {responsive: true, displayModeBar: false});
    });
  }
  draw();
  dark.addEventListener('change', draw);
})();
"""
