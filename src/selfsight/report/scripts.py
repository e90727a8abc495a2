"""Scripts of the report: charts (drawn by plotly) and the map (drawn here, on a canvas, since a picture goes with each point)."""

CHARTS = """
(function () {
  var charts = JSON.parse(document.getElementById('charts').textContent);
  var axis = {gridcolor: '#e6e9ed', zerolinecolor: '#dfe3e8', linecolor: '#dfe3e8'};
  charts.forEach(function (chart, i) {
    var layout = Object.assign({}, chart.layout, {
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', font: {color: '#3b434c', size: 12},
      xaxis: Object.assign({}, axis, chart.layout.xaxis), yaxis: Object.assign({}, axis, chart.layout.yaxis)
    });
    Plotly.newPlot('c' + i, chart.data, layout, {responsive: true, displayModeBar: false});
  });
})();
"""

MAP = """
(function () {
  var all = JSON.parse(document.getElementById('maps').textContent), COLOURS = all.colours;
  var SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], NONE = '#c9ced6';
  function onScale(share) {
    var at = Math.min(3.999, Math.max(0, share * 4)), i = Math.floor(at), f = at - i;
    return 'rgb(' + SCALE[i].map(function (v, j) { return Math.round(v + f * (SCALE[i + 1][j] - v)); }).join(',') + ')';
  }
  function make(kind, parent, text) {
    var made = document.createElement(kind);
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  }
  function start(map, root) {
    var count = map.points.length / 2, by = 0, chosen = {}, zoom = 1, centre = [0, 0], over = -1, width = 0, height = 0;
    var tools = root.querySelector('.tools'), canvas = root.querySelector('canvas'), legend = root.querySelector('.legend');
    var tip = make('div', canvas.parentNode), context = canvas.getContext('2d');
    tip.className = 'tip';
    tip.setAttribute('role', 'status');
    if (map.by.length > 1) {
      var label = make('label', tools, 'Colour '), select = make('select', label);
      map.by.forEach(function (one, i) { make('option', select, one.name).value = i; });
      select.addEventListener('change', function () { by = +select.value; chosen = {}; list(); draw(); });
    }
    [['+', 'Zoom in', 1.5], ['\\u2212', 'Zoom out', 1 / 1.5], ['Reset', 'Show everything', 0]].forEach(function (kind) {
      var button = make('button', tools, kind[0]);
      button.type = 'button';
      button.setAttribute('aria-label', kind[1]);
      button.addEventListener('click', function () { zoomBy(kind[2], width / 2, height / 2); });
    });
    var score = make('span', tools);
    score.className = 'score';

    function tint(i) {
      var one = map.by[by], value = one.values[i];
      if (value === null || value < 0 && one.names) return NONE;
      return one.names ? COLOURS[value % COLOURS.length] : onScale((value - one.low) / (one.high - one.low || 1));
    }
    function list() {
      var one = map.by[by], seen = {};
      legend.textContent = '';
      score.textContent = one.score;
      if (!one.names) {
        [one.low, (one.low + one.high) / 2, one.high].forEach(function (value, i) {
          var entry = make('span', legend);
          make('span', entry).className = 'key';
          entry.firstChild.style.background = onScale(i / 2);
          entry.appendChild(document.createTextNode(+value.toPrecision(4) + '  '));
        });
        return;
      }
      one.values.forEach(function (value) { seen[value] = (seen[value] || 0) + 1; });
      one.names.forEach(function (name, value) {
        if (!seen[value]) return;
        var button = make('button', legend), mark = make('span', button);
        button.type = 'button';
        button.setAttribute('aria-pressed', 'false');
        mark.className = 'key';
        mark.style.background = COLOURS[value % COLOURS.length];
        button.appendChild(document.createTextNode(name + ' (' + seen[value] + ')'));
        button.addEventListener('click', function () {
          if (chosen[value]) delete chosen[value]; else chosen[value] = true;
          button.setAttribute('aria-pressed', String(!!chosen[value]));
          draw();
        });
      });
    }
    function shown(i) { return !Object.keys(chosen).length || chosen[map.by[by].values[i]]; }
    function scale() { return 0.47 * Math.min(width, height) * zoom; }
    function place(i) {
      var s = scale();
      return [width / 2 + (map.points[2 * i] / 5000 - centre[0]) * s, height / 2 - (map.points[2 * i + 1] / 5000 - centre[1]) * s];
    }
    function mark(i, at, size) {
      var kind = map.by[by].names ? Math.floor(map.by[by].values[i] / COLOURS.length) % 4 : 0;
      context.beginPath();
      if (kind <= 0) context.arc(at[0], at[1], size, 0, 7);
      else if (kind === 1) context.rect(at[0] - size, at[1] - size, 2 * size, 2 * size);
      else if (kind === 2) {
        context.moveTo(at[0], at[1] - 1.3 * size); context.lineTo(at[0] + 1.2 * size, at[1] + size);
        context.lineTo(at[0] - 1.2 * size, at[1] + size); context.closePath();
      } else {
        context.moveTo(at[0], at[1] - 1.4 * size); context.lineTo(at[0] + 1.4 * size, at[1]);
        context.lineTo(at[0], at[1] + 1.4 * size); context.lineTo(at[0] - 1.4 * size, at[1]); context.closePath();
      }
    }
    function draw() {
      var ratio = window.devicePixelRatio || 1, some = Object.keys(chosen).length > 0;
      var size = Math.max(1.6, Math.min(4.5, 130 / Math.sqrt(count))) * Math.sqrt(Math.min(4, zoom)) * (width < 500 ? 0.8 : 1);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      for (var pass = some ? 0 : 1; pass < 2; pass++) {
        for (var k = 0; k < count; k++) {
          var i = (k * map.stride) % count, at = place(i), on = !some || shown(i);
          if (on !== (pass === 1) || at[0] < -9 || at[1] < -9 || at[0] > width + 9 || at[1] > height + 9) continue;
          context.globalAlpha = on ? 0.85 : 0.15;
          context.fillStyle = on ? tint(i) : NONE;
          mark(i, at, size);
          context.fill();
        }
      }
      context.globalAlpha = 1;
      if (over >= 0) {
        mark(over, place(over), size + 3);
        context.strokeStyle = '#1b1f24'; context.lineWidth = 2; context.stroke();
      }
    }
    function fit() {
      var ratio = window.devicePixelRatio || 1;
      width = canvas.clientWidth;
      height = Math.round(Math.min(width, map.height));
      canvas.style.height = height + 'px';
      canvas.width = width * ratio;
      canvas.height = height * ratio;
      draw();
    }
    function zoomBy(factor, x, y) {
      var before = scale(), px = x - width / 2, py = height / 2 - y;
      if (!factor) { zoom = 1; centre = [0, 0]; } else {
        zoom = Math.min(60, Math.max(1, zoom * factor));
        centre[0] += px / before - px / scale();
        centre[1] += py / before - py / scale();
      }
      if (zoom === 1) centre = [0, 0];
      canvas.style.touchAction = zoom > 1 ? 'none' : 'pan-y';
      show(-1);
    }
    function nearest(x, y, reach) {
      var best = -1, least = reach * reach;
      for (var i = 0; i < count; i++) {
        if (!shown(i)) continue;
        var at = place(i), d = (at[0] - x) * (at[0] - x) + (at[1] - y) * (at[1] - y);
        if (d < least) { least = d; best = i; }
      }
      return best;
    }
    function show(i) {
      if (i === over && i >= 0) return;
      over = i;
      draw();
      tip.textContent = '';
      tip.style.display = i < 0 ? 'none' : 'block';
      if (i < 0) return;
      var picture = make('div', tip), sheet = map.sheet === null ? null : all.sheets[map.sheet];
      if (sheet) {
        var side = 96;
        picture.style.cssText = 'width:' + side + 'px;height:' + side + 'px';
        picture.style.backgroundImage = 'url(' + sheet.source + ')';
        picture.style.backgroundSize = side * sheet.across + 'px auto';
        picture.style.backgroundPosition = -side * (i % sheet.across) + 'px ' + -side * Math.floor(i / sheet.across) + 'px';
      }
      map.by.forEach(function (one) {
        var value = one.values[i];
        if (value === null || one.names && value < 0) return;
        make('div', tip, one.name + ': ' + (one.names ? one.names[value] : +value.toPrecision(5)));
      });
      if (map.names) make('div', tip, map.names[i]);
      var at = place(i), left = at[0] + 14, top = at[1] + 14;
      if (left + tip.offsetWidth > width) left = Math.max(0, at[0] - 14 - tip.offsetWidth);
      if (top + tip.offsetHeight > height) top = Math.max(0, at[1] - 14 - tip.offsetHeight);
      tip.style.left = left + 'px';
      tip.style.top = top + canvas.offsetTop + 'px';
    }
    var drag = null;
    function where(event) {
      var box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    }
    canvas.addEventListener('pointermove', function (event) {
      var at = where(event);
      if (drag && zoom > 1) {
        centre[0] = drag.centre[0] - (at[0] - drag.at[0]) / scale();
        centre[1] = drag.centre[1] + (at[1] - drag.at[1]) / scale();
        show(-1);
      } else if (!drag) show(nearest(at[0], at[1], 18));
    });
    canvas.addEventListener('pointerdown', function (event) {
      drag = {at: where(event), centre: centre.slice()};
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointerup', function (event) {
      var at = where(event), still = drag && Math.abs(at[0] - drag.at[0]) + Math.abs(at[1] - drag.at[1]) < 6;
      drag = null;
      if (still) show(nearest(at[0], at[1], 28));
    });
    canvas.addEventListener('pointercancel', function () { drag = null; });
    canvas.addEventListener('pointerleave', function (event) { if (event.pointerType === 'mouse') show(-1); });
    canvas.addEventListener('dblclick', function (event) { var at = where(event); zoomBy(2, at[0], at[1]); });
    canvas.addEventListener('wheel', function (event) {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
      event.preventDefault();
      var at = where(event);
      zoomBy(event.deltaY < 0 ? 1.25 : 0.8, at[0], at[1]);
    }, {passive: false});
    canvas.addEventListener('keydown', function (event) {
      var step = 0.2 / zoom, moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]};
      var zooms = {'+': 1.5, '=': 1.5, '-': 1 / 1.5, '0': 0};
      if (event.key in moves && zoom > 1) { centre[0] += moves[event.key][0]; centre[1] += moves[event.key][1]; show(-1); }
      else if (event.key in zooms) zoomBy(zooms[event.key], width / 2, height / 2);
      else return;
      event.preventDefault();
    });
    list();
    fit();
    if (window.ResizeObserver) new ResizeObserver(function () { if (canvas.clientWidth !== width) fit(); }).observe(root);
  }
  all.maps.forEach(function (map, i) { start(map, document.getElementById('map' + i)); });
})();
"""
