/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a fuzz target without libFuzzer: replay [-runs=N] FILE|FOLDER... runs every seed, then
 * N changes of them (default 2000), the same ones each time. So that what the fuzzer once found
 * stays found in every build, whatever the compiler.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

enum { MAX_SEEDS = 1024, MAX_LEN = 1 << 16 };

static struct seed {
    uint8_t *data;
    size_t len;
} seeds[MAX_SEEDS];
static size_t n_seeds;

static void die(const char *what)
{
    perror(what);
    exit(2);
}

/* The input at exactly its length, so that a sanitizer sees a byte read too far. */
static void run(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    if (!copy)
        die("malloc");
    memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void add_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(MAX_LEN);

    if (!file || !data)
        die(path);
    if (n_seeds == MAX_SEEDS) {
        fprintf(stderr, "%s: more than %d seeds\n", path, MAX_SEEDS);
        exit(2);
    }
    seeds[n_seeds].data = data;
    seeds[n_seeds++].len = fread(data, 1, MAX_LEN, file);
    fclose(file);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void add(const char *path)
{
    struct dirent **names;
    struct stat st;
    int n;

    if (stat(path, &st))
        die(path);
    if (!S_ISDIR(st.st_mode)) {
        add_file(path);
        return;
    }
    n = scandir(path, &names, NULL, by_name);
    if (n < 0)
        die(path);
    for (int i = 0; i < n; i++) {
        char file[4096];

        snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            add_file(file);
        free(names[i]);
    }
    free(names);
}

static uint64_t random_state = 88172645463325252u;

static size_t below(size_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return n ? (size_t)(random_state % n) : 0;
}

static size_t change(uint8_t *data, size_t len)
{
    static const uint64_t edges[] = {0,          1,          0x7f,           0xff,      0xffff,
                                     0x7fffffff, 0xffffffff, UINT64_MAX / 2, UINT64_MAX};
    const struct seed *other = &seeds[below(n_seeds)];
    size_t at = below(len), n;

    switch (below(7)) {
    case 0:
        if (len)
            data[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        if (len)
            data[at] = (uint8_t)below(256);
        break;
    case 2:
        len = at;
        break;
    case 3: /* a number at its edge */
        n = (size_t)1 << below(4);
        if (len >= n)
            memcpy(data + below(len - n + 1), &edges[below(sizeof(edges) / sizeof(edges[0]))],
                   n);
        break;
    case 4: /* a piece twice */
        n = below(len - at + 1);
        if (n && n <= MAX_LEN - len) {
            memmove(data + at + n, data + at, len - at);
            len += n;
        }
        break;
    case 5: /* a piece gone */
        n = below(len - at + 1);
        memmove(data + at, data + at + n, len - at - n);
        len -= n;
        break;
    case 6: /* the end of another seed */
        n = below(other->len + 1);
        if (n <= MAX_LEN - at) {
            memcpy(data + at, other->data + other->len - n, n);
            len = at + n;
        }
        break;
    }
    return len;
}

int main(int argc, char **argv)
{
    static uint8_t data[MAX_LEN];
    size_t runs = 2000;

    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-runs=", 6) == 0)
            runs = strtoul(argv[i] + 6, NULL, 10);
        else
            add(argv[i]);
    }
    if (n_seeds == 0) {
        fprintf(stderr, "%s: no seeds\n", argv[0]);
        return 2;
    }
    run(data, 0);
    for (size_t i = 0; i < n_seeds; i++)
        run(seeds[i].data, seeds[i].len);
    for (size_t i = 0; i < runs; i++) {
        const struct seed *seed = &seeds[below(n_seeds)];
        size_t len = seed->len;

        memcpy(data, seed->data, len);
        for (size_t n = 1 + below(4); n > 0; n--)
            len = change(data, len);
        run(data, len);
    }
    printf("%zu seeds, %zu changes of them\n", n_seeds, runs);
    for (size_t i = 0; i < n_seeds; i++)
        free(seeds[i].data);
    return 0;
}
