/* The plot: two panels of an SVG file that needs nothing else, dark where the reader's page is. */
#include <math.h>
#include <string.h>

#include "server/cli/load/load.h"

enum { WIDTH = 860, LEFT = 72, RIGHT = 34, PANEL = 250, TOP = 64, SPACE = 92 };

typedef struct axis {
    double low, high; /* of the data; powers of ten when logarithmic */
    double from, to;  /* pixels */
    bool log;
} axis;

static double place(const axis *a, double v) {
    double share = a->log ? (log10(v > 0 ? v : 1e-12) - log10(a->low)) / log10(a->high / a->low)
                          : (v - a->low) / (a->high - a->low);
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    return a->from + share * (a->to - a->from);
}

static void begin(FILE *f, const char *title) {
    int height = TOP + 2 * PANEL + SPACE + 56;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
            "height=\"%d\" font-family=\"system-ui,sans-serif\" font-size=\"13\">\n",
            WIDTH, height, WIDTH, height);
    fputs("<style>\n"
          ".bg{fill:#fff}.ink{fill:#1a1a1a}.soft{fill:#5c5c5c}.grid{stroke:#dcdcdc}\n"
          ".c0{stroke:#0b62c4}.c1{stroke:#b3460b}.c2{stroke:#5b4a8a}.d0{fill:#0b62c4}\n"
          ".curve{fill:none;stroke-width:2}\n"
          "@media (prefers-color-scheme:dark){.bg{fill:#16181c}.ink{fill:#ececec}"
          ".soft{fill:#a8a8a8}\n"
          ".grid{stroke:#34373d}.c0{stroke:#6db1ff}.c1{stroke:#ffa264}.c2{stroke:#c0b0f0}"
          ".d0{fill:#6db1ff}}\n"
          "</style>\n<rect class=\"bg\" width=\"100%\" height=\"100%\"/>\n",
          f);
    fprintf(f, "<text class=\"ink\" x=\"%d\" y=\"28\" font-size=\"16\">", LEFT);
    for (const char *c = title; *c; c++)
        if (*c == '<' || *c == '>' || *c == '&')
            fprintf(f, "&#%d;", *c);
        else
            fputc(*c, f);
    fputs("</text>\n", f);
}

static void label(FILE *f, const char *type, const char *anchor, double x, double y,
                  const char *text) {
    fprintf(f, "<text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", type,
            anchor, x, y, text);
}

static void line(FILE *f, double x1, double y1, double x2, double y2) {
    fprintf(f, "<line class=\"grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", x1, y1,
            x2, y2);
}

/* Milliseconds, from powers of ten around what was measured. */
static axis log_axis(double low, double high, double from, double to) {
    low = low > 1e-6 ? low : 1e-6;
    high = high > low ? high : low * 10;
    double a = pow(10, floor(log10(low))), b = pow(10, ceil(log10(high)));
    return (axis){.low = a, .high = b > a ? b : a * 10, .from = from, .to = to, .log = true};
}

static void name_ms(char out[32], double seconds) {
    double ms = 1000 * seconds;
    snprintf(out, 32, ms >= 1000 ? "%.6g s" : "%.6g ms", ms >= 1000 ? seconds : ms);
}

/* ---- shares ---- */

static void curve(FILE *f, const cli_hist *h, const axis *x, const axis *y, int colour) {
    uint64_t seen = 0;
    fprintf(f, "<path class=\"curve c%d\" d=\"M%.1f %.1f", colour, x->from, y->from);
    double last = x->from;
    for (size_t i = 0; i < CLI_HIST_BUCKETS; i++) {
        if (!h->bucket[i])
            continue;
        double at = place(x, cli_hist_edge(i)), before = place(y, (double)seen / (double)h->count);
        seen += h->bucket[i];
        if (at - last < 0.5 && seen < h->count)
            continue; /* finer than a pixel */
        fprintf(f, "L%.1f %.1fL%.1f %.1fL%.1f %.1f", last, before, at, before, at,
                place(y, (double)seen / (double)h->count));
        last = at;
    }
    fprintf(f, "L%.1f %.1f\"/>\n", x->to, y->to);
}

static void legend(FILE *f, int colour, double x, double y, const char *text) {
    fprintf(f, "<path class=\"curve c%d\" d=\"M%.1f %.1fh24\"/>\n", colour, x, y - 4);
    label(f, "ink", "start", x + 30, y, text);
}

static double smallest(const cli_hist *h) {
    for (size_t i = 0; i < CLI_HIST_BUCKETS; i++)
        if (h->bucket[i])
            return cli_hist_edge(i);
    return 1;
}

static void grid_x_log(FILE *f, const axis *x, double top, double bottom) {
    for (double v = x->low; v <= x->high * 1.001; v *= 10) {
        char text[32];
        name_ms(text, v);
        line(f, place(x, v), top, place(x, v), bottom);
        label(f, "soft", "middle", place(x, v), bottom + 18, text);
    }
}

/* A gap of under ten microseconds means that tokens came in one piece: below the axis. */
static void panel_shares(FILE *f, const cli_load_stats *s, double top) {
    double low = 1e9, high = 0, bottom = top + PANEL;
    for (int i = 0; i <= CLI_LOAD_WHOLE; i++) {
        if (!s->time[i].count)
            continue;
        low = fmin(low, fmax(smallest(&s->time[i]), 1e-5));
        high = fmax(high, s->time[i].largest);
    }
    axis x = log_axis(low, high, LEFT, WIDTH - RIGHT);
    axis y = {.low = 0, .high = 1, .from = bottom, .to = top};
    label(f, "ink", "start", LEFT, top - 10, "Share of samples within a time");
    grid_x_log(f, &x, top, bottom);
    for (int i = 0; i <= 4; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d%%", 25 * i);
        line(f, LEFT, place(&y, 0.25 * i), WIDTH - RIGHT, place(&y, 0.25 * i));
        label(f, "soft", "end", LEFT - 8, place(&y, 0.25 * i) + 4, text);
    }
    for (int i = 0, at = 0; i <= CLI_LOAD_WHOLE; i++) {
        if (!s->time[i].count)
            continue;
        curve(f, &s->time[i], &x, &y, i);
        legend(f, i, LEFT + 190 * at++, bottom + 42, cli_load_time_names[i]);
    }
}

/* ---- over time ---- */

static double step_of(double span) {
    double raw = span / 8, ten = pow(10, floor(log10(raw))), m = raw / ten;
    return ten * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

static void panel_over_time(FILE *f, const cli_load_stats *s, double top) {
    const cli_points *p = &s->over_time;
    size_t n = cli_points_count(p);
    const cli_hist *h = &s->time[CLI_LOAD_TTFT];
    double bottom = top + PANEL, end = s->seconds > 1e-3 ? s->seconds : 1e-3, step = step_of(end);
    axis x = {.low = 0, .high = end, .from = LEFT, .to = WIDTH - RIGHT};
    axis y = log_axis(smallest(h), h->largest, bottom, top);
    char text[96];
    snprintf(text, sizeof text, "Time to first token over the run%s",
             p->seen > n ? " (a fair sample of the requests)" : "");
    label(f, "ink", "start", LEFT, top - 10, text);
    for (double v = 0; v <= end; v += step) {
        snprintf(text, sizeof text, "%.6g s", v);
        line(f, place(&x, v), top, place(&x, v), bottom);
        label(f, "soft", "middle", place(&x, v), bottom + 18, text);
    }
    for (double v = y.low; v <= y.high * 1.001; v *= 10) {
        name_ms(text, v);
        line(f, LEFT, place(&y, v), WIDTH - RIGHT, place(&y, v));
        label(f, "soft", "end", LEFT - 8, place(&y, v) + 4, text);
    }
    fputs("<g class=\"d0\" fill-opacity=\"0.6\">\n", f);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>\n", place(&x, (double)p->x[i]),
                place(&y, (double)p->y[i]));
    fputs("</g>\n", f);
}

void cli_load_plot(FILE *f, const char *title, const cli_load_stats *s) {
    begin(f, title);
    if (s->time[CLI_LOAD_TTFT].count) {
        panel_shares(f, s, TOP);
        panel_over_time(f, s, TOP + PANEL + SPACE);
    } else {
        label(f, "ink", "start", LEFT, TOP, "No request got a token.");
    }
    fputs("</svg>\n", f);
}
