"""Style sheet of the report and of the doctor's page: dark on light, one column on a phone."""

STYLE = """
:root{color-scheme:light;--bg:#f5f6f8;--card:#fff;--ink:#1b1f24;--soft:#5b6470;--line:#dde1e7;--good:#0b6b4f;--bad:#a8321a;--wait:#735100;--link:#005a8d}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:36px 28px 72px}
a{color:var(--link)}
header{display:flex;flex-wrap:wrap;gap:6px 16px;align-items:baseline;margin-bottom:14px}
h1{font-size:32px;line-height:1.2;letter-spacing:-.015em;margin:0;overflow-wrap:anywhere}
h2{font-size:22px;line-height:1.3;letter-spacing:-.01em;margin:0 0 10px;padding-top:44px}
h3{font-size:15px;font-weight:600;margin:0 0 6px;overflow-wrap:anywhere}
.over{color:var(--soft);font-size:14px;width:100%}
.lead{font-size:19px;line-height:1.5;margin:0 0 10px;max-width:46em}.lead+.lead{font-size:16px;color:#39414b}
.verdict{display:inline-block;margin:0;padding:2px 11px;border-radius:99px;border:1px solid currentColor;font-size:14px}
.verdict span{color:var(--ink)}.good{color:var(--good)}.bad{color:var(--bad)}.wait{color:var(--wait)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:18px 0 20px;font-size:14px}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(158px,1fr));gap:14px 22px;margin:0;padding:16px 18px;background:var(--card);border:1px solid var(--line);border-radius:10px}
dt{color:var(--soft);font-size:13px;line-height:1.3}dd{margin:0;overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:16px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;margin:0 0 14px}
.grid .scroll{border:0;margin:0}
table{border-collapse:collapse;width:100%;font-size:15px;line-height:1.4}
th,td{text-align:left;padding:8px 14px;border-bottom:1px solid var(--line);vertical-align:baseline}
tbody tr:last-child>*{border-bottom:0}
thead th{font-weight:600;font-size:13px;color:var(--soft);vertical-align:bottom}tbody th{font-weight:600}
th.num,td.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
table.wide td,table.wide th{min-width:120px;overflow-wrap:anywhere;font-size:14px}table.wide thead th{color:var(--ink)}table.wide tbody th{white-space:nowrap}.chart{overflow:hidden}
.finals td:last-child{min-width:230px}td.how,.how{color:var(--soft);font-size:13.5px}
.ranking th,.ranking td{padding:8px 10px}.ranking tbody th{min-width:150px}
.soft{color:var(--soft)}
.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:8px}
.note{color:var(--soft);margin:0 0 12px;max-width:52em;font-size:15px}
.bar{position:relative;display:inline-block;width:150px;height:14px;background:#edf0f3;border-radius:3px;vertical-align:middle}
.bar i{position:absolute;left:0;top:0;bottom:0;border-radius:3px}
.bar b{position:absolute;top:6px;height:2px;background:var(--ink);box-shadow:0 0 0 1px #fff}.bar b:before,.bar b:after{content:"";position:absolute;top:-3px;width:2px;height:8px;background:var(--ink);box-shadow:0 0 0 1px #fff}
.bar b:before{left:0}.bar b:after{right:0}.bar u{position:absolute;top:-2px;bottom:-2px;width:0;border-left:2px dashed #3b434c}
.matrix{width:auto;font-size:13px;font-variant-numeric:tabular-nums}.matrix th,.matrix td{padding:0;border:1px solid #fff}
.matrix td{width:38px;height:32px;text-align:center;vertical-align:middle}.matrix tbody th{padding:0 10px;text-align:right;white-space:nowrap;font-weight:500;vertical-align:middle;position:sticky;left:0;background:var(--card)}
.matrix thead th{height:96px;vertical-align:bottom;text-align:center;font-weight:500}.matrix thead th span{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap;max-height:110px;overflow:hidden}
.matrix .empty{color:transparent}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px;align-items:start}
.neighbours{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 14px 6px}
.row{display:flex;gap:8px;margin-bottom:8px}figure{margin:0;width:84px;flex:none;font-size:12px;text-align:center}
figure img{width:84px;height:84px;object-fit:contain;image-rendering:pixelated;border-radius:5px;display:block;border:3px solid transparent}
figure.query{margin-right:14px}figure.query img{border-color:var(--soft)}figure.same img{border-color:#009e73}figure.other img{border:3px dashed #d55e00}
figcaption{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--soft)}
.strip{display:block;height:64px;width:auto;image-rendering:pixelated;border-radius:4px;margin:0 0 12px;max-width:none}
.strips{overflow-x:auto;padding-bottom:2px}.strips p{margin:0 0 3px;font-size:14px}
.map{position:relative}.map canvas{display:block;width:100%;border-radius:6px;background:#fff;outline-offset:2px;cursor:crosshair}
.tools{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin:0 0 8px;font-size:14px}
.tools select,.tools button,.legend button{font:inherit;color:inherit;background:#fff;border:1px solid #c3c9d1;border-radius:6px;padding:3px 9px;cursor:pointer;min-height:32px}
.tools button{min-width:34px}.tools .score{color:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:4px;margin:8px 0;max-height:148px;overflow-y:auto}.legend button{font-size:13px;border-color:transparent;padding:1px 8px 1px 6px;min-height:28px}
.legend button[aria-pressed=true]{border-color:var(--ink)}
.tip{position:absolute;display:none;pointer-events:none;z-index:2;background:#fff;border:1px solid #aab1bb;border-radius:8px;padding:8px;font-size:13px;line-height:1.35;box-shadow:0 4px 16px rgba(20,30,45,.18);max-width:230px;overflow-wrap:anywhere}
.tip div:first-child{margin:0 0 4px;image-rendering:pixelated;border-radius:4px}
.attention,.drawn{max-width:100%;image-rendering:pixelated}
.views{height:560px;max-width:100%;object-fit:contain;object-position:left top;image-rendering:pixelated}
.large{width:100%;max-width:560px;image-rendering:pixelated;display:block}
details{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 16px;margin-bottom:12px}summary{cursor:pointer;font-weight:600;font-size:15px}
pre{overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;margin:10px 0 0}
.commands{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px;margin:0 0 14px}
.heard{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
footer{margin-top:48px;padding-top:14px;border-top:1px solid var(--line);color:var(--soft);font-size:13.5px}
@media(max-width:640px){main{padding:22px 16px 48px}h1{font-size:25px}h2{font-size:20px;padding-top:34px}.lead{font-size:17px}.card{padding:12px}th,td{padding:7px 10px}.facts{grid-template-columns:1fr 1fr;padding:12px 14px}nav{gap:6px 14px}}
@media print{nav,.tools{display:none}.card,section{break-inside:avoid}}
"""  # noqa: E501
