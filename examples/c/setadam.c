/* SET-Adam (arXiv 2302.01029) in C99, and the line protocol of setadam-conformance around it.
 *
 * `step` is the optimizer. float32 layers are computed in double and rounded once, at the end. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    double lr, beta1, beta2, eps, tau, weight_decay, cos_power;
    int decoupled_weight_decay, maximize, eps_inside_sqrt;
} Hyperparameters;

/* By halving, the longest chain of additions is 8 + log2 n, as the claim "pairwise" requires. */
static double sum(const double *r, size_t n, int squared)
{
    double total = 0;
    if (n > 16) return sum(r, n / 2, squared) + sum(r + n / 2, n - n / 2, squared);
    for (size_t i = 0; i < n; i++) total += squared ? r[i] * r[i] : r[i];
    return total;
}

/* gamma = cos^power of the angle between v and (1, ..., 1), from v / max v: v * v would underflow or overflow. */
static double down_scaling(const double *v, double *r, size_t n, double power)
{
    double largest = 0, s1, gamma;
    for (size_t i = 0; i < n; i++) largest = v[i] > largest || isnan(v[i]) ? v[i] : largest;
    if (power == 0 || largest == 0) return 1;
    for (size_t i = 0; i < n; i++) r[i] = v[i] / largest;
    s1 = sum(r, n, 0);
    gamma = (s1 / (double)n) * (s1 / sum(r, n, 1));
    gamma = gamma > 1 ? 1 : gamma; /* rounding can exceed 1; NaN stays NaN */
    return power == 2 ? gamma : pow(gamma, power / 2);
}

/* 1 - beta^t without cancellation. */
static double bias_correction(double beta, double t) { return beta == 0 ? 1 : -expm1(t * log(beta)); }

static double stored(double x, int single) { return single ? (float)x : x; }

/* One step of one layer of n coordinates, in place; t counts from 1, w is work space for n. */
static void step(double *theta, const double *grad, double *m, double *v, double *w, size_t n, double t,
                 const Hyperparameters *hp, int single)
{
    double stepsize = hp->lr / bias_correction(hp->beta1, t), bc2 = bias_correction(hp->beta2, t);
    double coupled = hp->decoupled_weight_decay ? 0 : hp->weight_decay, gamma, least = INFINITY;
    for (size_t i = 0; i < n; i++) {
        double g = (hp->maximize ? -grad[i] : grad[i]) + (coupled != 0 ? coupled * theta[i] : 0);
        m[i] = stored(hp->beta1 * m[i] + (1 - hp->beta1) * g, single);
        v[i] = stored(hp->beta2 * v[i] + (1 - hp->beta2) * (g * g), single);
    }
    gamma = down_scaling(v, w, n, hp->cos_power);
    for (size_t i = 0; i < n; i++) {
        double v_hat = gamma * v[i] / bc2;
        w[i] = hp->eps_inside_sqrt ? sqrt(v_hat + hp->eps) : sqrt(v_hat) + hp->eps;
        least = w[i] < least || isnan(w[i]) ? w[i] : least;
    }
    for (size_t i = 0; i < n; i++) {
        double kept = hp->decoupled_weight_decay ? (1 - hp->lr * hp->weight_decay) * theta[i] : theta[i];
        theta[i] = stored(kept - stepsize * m[i] / (w[i] - hp->tau * least), single);
    }
}

/* --- JSON: the kit writes compact lines with keys in the order of its documentation. --- */

static const char *find(const char *p, const char *key) /* the value of the next such key */
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    if ((p = strstr(p, quoted))) return p + strlen(quoted);
    fprintf(stderr, "setadam: malformed request: no %s\n", quoted);
    exit(1);
}

static int is(const char *p, const char *text) { return strncmp(p, text, strlen(text)) == 0; }

/* Numbers are strings for strtod, which reads C99's hexadecimal, "nan", "inf" and "-inf". */
static double number(const char *p) { return *p == '"' ? strtod(p + 1, NULL) : NAN; }

static double *numbers(const char *p, size_t n) /* NULL unless there are exactly n */
{
    double *x = malloc((n + 1) * sizeof *x);
    size_t i = 0;
    for (char *end; *p != ']' && p[1] == '"' && x && i <= n; p = end + 1) /* p: [ or the comma before */
        x[i++] = strtod(p + 2, &end);
    if (x && i == n && p[*p == '['] == ']') return x;
    free(x);
    return NULL;
}

static void print(const char *before, const char *key, const double *x, size_t n)
{
    printf("%s\"%s\":[", before, key);
    for (size_t i = 0; i < n; i++) /* "%a" would show a NaN's sign */
        printf(isnan(x[i]) ? "%s\"nan\"" : "%s\"%a\"", i ? "," : "", x[i]);
    printf("]");
}

/* --- The protocol --- */

static const char *const KEYS[] = {"param", "grad", "m", "v"};
typedef struct {
    size_t n;
    double *x[5]; /* the four above, and work space */
} Layer;

static int read_layer(const char *p, Layer *layer) /* p is its shape; false if its arrays do not match it */
{
    char *end = (char *)p;
    int fits = 1;
    for (layer->n = 1; *end != ']' && end[1] != ']';) layer->n *= strtoul(end + 1, &end, 10);
    for (int i = 0; i < 4; i++) fits &= (layer->x[i] = numbers(find(p, KEYS[i]), layer->n)) != NULL;
    return (layer->x[4] = malloc((layer->n + 1) * sizeof(double))) && fits;
}

static void free_layer(Layer *layer) { for (int i = 0; i < 5; i++) free(layer->x[i]); }

static const char *read_settings(const char *p, int single, Hyperparameters *hp) /* what is wrong, or NULL */
{
    static char wrong[128];
    double end = nextafter(single ? FLT_MAX : DBL_MAX, INFINITY);
    const struct { const char *name; double *to, least, below; } rules[] = {
        {"lr", &hp->lr, 0, end}, {"beta1", &hp->beta1, 0, 1}, {"beta2", &hp->beta2, 0, 1},
        {"eps", &hp->eps, single ? FLT_MIN : DBL_MIN, end}, {"tau", &hp->tau, 0, 1},
        {"weight_decay", &hp->weight_decay, 0, end}, {"cos_power", &hp->cos_power, 0, INFINITY}};
    const char *const names[] = {"decoupled_weight_decay", "maximize", "eps_inside_sqrt"};
    int *const switches[] = {&hp->decoupled_weight_decay, &hp->maximize, &hp->eps_inside_sqrt};
    for (int i = 0; i < 3; i++) {
        snprintf(wrong, sizeof wrong, "%s must be true or false", names[i]);
        *switches[i] = is(find(p, names[i]), "true");
        if (!*switches[i] && !is(find(p, names[i]), "false")) return wrong;
    }
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        double x = *rules[i].to = number(find(p, rules[i].name));
        snprintf(wrong, sizeof wrong, "%s must be a number from %g to below %g, got %g", rules[i].name,
                 rules[i].least, rules[i].below, x);
        if (!(x >= rules[i].least && x < rules[i].below)) return wrong;
    }
    return NULL;
}

static const char *reply(const char *line, long seq) /* why it refuses, or NULL */
{
    int single = is(find(line, "dtype"), "\"float32\"");
    double t = strtod(find(line, "t"), NULL);
    const char *first = strstr(line, "\"shape\":"), *p, *wrong;
    Layer layer; Hyperparameters hp;
    if (!single && !is(find(line, "dtype"), "\"float64\"")) return "dtype must be float32 or float64";
    if ((wrong = read_settings(line, single, &hp))) return wrong;
    if (t < 0) return "t must be at least 0";
    for (p = first; p; p = strstr(p + 1, "\"shape\":")) { /* check all layers before computing any */
        int fits = read_layer(find(p, "shape"), &layer);
        free_layer(&layer);
        if (!is(find(p, "axes"), "null")) return "axes are not supported: a layer is a whole array";
        if (!is(find(p, "complex"), "false")) return "complex numbers are not supported";
        if (!fits) return "param, grad, m and v must have as many numbers as shape says";
    }
    printf("{\"seq\":%ld,\"t\":%.0f,\"layers\":[", seq, t + 1);
    for (p = first; p; p = strstr(p + 1, "\"shape\":")) {
        read_layer(find(p, "shape"), &layer);
        step(layer.x[0], layer.x[1], layer.x[2], layer.x[3], layer.x[4], layer.n, t + 1, &hp, single);
        printf(p == first ? "{" : "},{");
        for (int i = 0; i < 4; i += i ? 1 : 2) print(i ? "," : "", KEYS[i], layer.x[i], layer.n);
        free_layer(&layer);
    }
    printf(first ? "}]}\n" : "]}\n");
    return NULL;
}

static char *read_line(void)
{
    size_t used = 0, room = 1 << 16;
    char *line = malloc(room);
    while (line && fgets(line + used, (int)(room - used), stdin)) {
        used += strlen(line + used);
        if (line[used - 1] == '\n') return line;
        line = room - used > 1 ? line : realloc(line, room *= 2);
    }
    return NULL;
}

int main(void)
{
    char *line;
    for (; (line = read_line()) && !is(find(line, "cmd"), "\"stop\""); free(line)) {
        if (is(find(line, "cmd"), "\"start\"")) {
            printf("{\"protocol\":1,\"name\":\"setadam.c\",\"dtypes\":[\"float64\",\"float32\"],\"options\":["
                   "\"weight_decay\",\"decoupled_weight_decay\",\"maximize\",\"cos_power\",\"eps_inside_sqrt\","
                   "\"empty\",\"many\"],\"reduction\":\"pairwise\"}\n");
        } else {
            long seq = strtol(find(line, "seq"), NULL, 10);
            const char *wrong = reply(line, seq);
            if (wrong) printf("{\"seq\":%ld,\"error\":{\"kind\":\"ValueError\",\"message\":\"%s\"}}\n", seq, wrong);
        }
        fflush(stdout);
    }
    free(line);
}
