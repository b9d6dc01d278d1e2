/* SPDX-License-Identifier: Apache-2.0 */
/* The loader, on real plugins (plugins/): what it accepts, and what it says where it does not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ferry/ferry.h"
#include "loader.h"
#include "loader_inner.h"

static char built[400];   /* where the build put them */
static char scratch[400]; /* a directory of this test's own */
static char logged[4096];

static void remember(void *arg, int level, const char *message)
{
    size_t len = strlen(logged);

    snprintf(logged + len, sizeof(logged) - len, "%d %s\n", level, message);
}

static const struct fy_log log_here = {FERRY_LOG_DEBUG, remember, NULL};

static struct fy_loader *opened(const char *environment, const char *plugin_path)
{
    struct fy_loader *loader = NULL;

    logged[0] = '\0';
    unsetenv("FERRY_TEST_LOADED");
    if (environment)
        setenv("FERRY_PLUGIN_PATH", environment, 1);
    else
        unsetenv("FERRY_PLUGIN_PATH");
    assert_int_equal(fy_loader_open(plugin_path, &log_here, &loader), FERRY_OK);
    return loader;
}

static char *path_of(const char *dir, const char *file)
{
    static char paths[4][900];
    static int next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", dir, file);
    return path;
}

static size_t slurp(const char *path, char **data_out)
{
    FILE *file = fopen(path, "rb");
    long len;

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    len = ftell(file);
    rewind(file);
    *data_out = malloc((size_t)len + 1);
    assert_non_null(*data_out);
    assert_int_equal(fread(*data_out, 1, (size_t)len, file), len);
    fclose(file);
    return (size_t)len;
}

static void spill(const char *path, const void *data, size_t len)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

/* A copy of a built plugin, under another name, in scratch. */
static char *copied(const char *from, const char *to, char **data, size_t *len)
{
    char *target = path_of(scratch, to), *own = NULL;

    *len = slurp(path_of(built, from), data ? data : &own);
    spill(target, data ? *data : own, *len);
    free(own);
    return target;
}

static void empty_scratch(void)
{
    char command[1000];

    snprintf(command, sizeof(command), "rm -rf '%s' && mkdir -m 700 '%s'", scratch, scratch);
    assert_int_equal(system(command), 0);
}

static void a_good_plugin_is_loaded_once_for_everybody(void **state)
{
    struct fy_loader *first = opened(built, NULL), *second = opened(NULL, built);
    const struct fy_transport_plugin *plugin = NULL, *again = NULL;
    char text[32];

    assert_int_equal(fy_loader_transport(first, "good", &plugin), FERRY_OK);
    assert_string_equal(getenv("FERRY_TEST_LOADED"), "good");
    assert_string_equal(plugin->name, "good");
    assert_string_equal(plugin->version, "4.5.6");
    assert_string_equal(plugin->path, path_of(built, "ferry_transport_good.so"));
    unsetenv("FERRY_TEST_LOADED");
    assert_int_equal(fy_loader_transport(second, "good", &again), FERRY_OK);
    assert_ptr_equal(plugin, again);
    fy_loader_close(first);
    assert_int_equal(fy_loader_transport(second, "good", &again), FERRY_OK);
    assert_null(getenv("FERRY_TEST_LOADED"));

    /* Its own functions, and stubs where it has none. */
    assert_int_equal(plugin->ops.size, sizeof(struct ferry_transport_ops));
    assert_int_equal(plugin->ops.open(NULL, NULL, NULL), FERRY_EDEVICE);
    assert_int_equal(plugin->ops.probe(NULL), FERRY_ENOTSUP);
    assert_int_equal(plugin->ops.on_call(NULL, "", NULL, 0, NULL), FERRY_ENOTSUP);
    assert_int_equal(plugin->ops.cancel(NULL, 1), FERRY_ENOTSUP);
    assert_int_equal(plugin->ops.queue_fd(NULL, NULL), FERRY_ENOTSUP);
    assert_int_equal(plugin->ops.queue_arm(NULL), FERRY_ENOTSUP);
    plugin->ops.strerror_vendor(NULL, 12, text, sizeof(text));
    assert_string_equal(text, "error 12");
    fy_loader_close(second);
    fy_loader_close(NULL);
}

static void a_longer_table_is_fine(void **state)
{
    struct fy_loader *loader = opened(built, NULL);
    const struct fy_transport_plugin *plugin = NULL;

    assert_int_equal(fy_loader_transport(loader, "longer", &plugin), FERRY_OK);
    assert_int_equal(plugin->ops.size, sizeof(struct ferry_transport_ops));
    assert_int_equal(plugin->ops.poll(NULL, NULL, 0), 0);
    fy_loader_close(loader);
}

static void refused_ones_say_file_found_and_wanted(void **state)
{
    static const struct {
        const char *name, *why;
    } wrong[] = {
        {"magic", "no plugin: magic 0x12345678, wanted 0x31595246"},
        {"major", "built for transport ABI 2.3, wanted 1.x"},
        {"header", "its descriptor has 16 bytes, wanted at least 40"},
        {"symbol", "no plugin of this kind: it exports no symbol ferry_transport_plugin"},
        {"unresolved", "undefined symbol: test_defined_nowhere"},
        {"misnamed", "calls itself \"other\", its file \"misnamed\""},
        {"table", "has no table"},
        {"short", "its table has 184 bytes, wanted at least the 192 of ABI 1.0"},
        {"hole", "its table lacks \"submit\", which is mandatory"},
        {"late", "its table is no constant of the file"},
        {"function", "symbol ferry_transport_plugin is a function, wanted data"},
        {"bss", "symbol ferry_transport_plugin is no data of the file"},
    };
    struct fy_loader *loader = opened(built, NULL);

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const struct fy_transport_plugin *plugin = NULL;
        char want[1200], file[64];

        snprintf(file, sizeof(file), "ferry_transport_%s.so", wrong[i].name);
        snprintf(want, sizeof(want), "%s: %s", path_of(built, file), wrong[i].why);
        unsetenv("FERRY_TEST_LOADED");
        assert_int_equal(fy_loader_transport(loader, wrong[i].name, &plugin), FERRY_EABI);
        assert_string_equal(ferry_error(), want);
        assert_null(plugin);
        assert_null(getenv("FERRY_TEST_LOADED")); /* none of its code has run */
    }
    fy_loader_close(loader);
}

static void refuse(const char *name, const char *why)
{
    struct fy_loader *loader = opened(scratch, NULL);
    const struct fy_transport_plugin *plugin = NULL;

    assert_int_equal(fy_loader_transport(loader, name, &plugin), FERRY_EABI);
    if (!strstr(ferry_error(), why))
        print_message("%s\n", ferry_error());
    assert_non_null(strstr(ferry_error(), why));
    assert_int_equal(strncmp(ferry_error(), scratch, strlen(scratch)), 0);
    assert_null(getenv("FERRY_TEST_LOADED"));
    fy_loader_close(loader);
}

static void not_here(const char *name)
{
    struct fy_loader *loader = opened(scratch, NULL);
    const struct fy_transport_plugin *plugin = NULL;
    char want[64];

    snprintf(want, sizeof(want), "no transport \"%s\"; ", name);
    assert_int_equal(fy_loader_transport(loader, name, &plugin), FERRY_ENOENT);
    assert_int_equal(strncmp(ferry_error(), want, strlen(want)), 0);
    fy_loader_close(loader);
}

static void what_is_no_shared_object_is_not_loaded(void **state)
{
    char *data, *path;
    size_t len;
    Elf64_Ehdr *head;

    empty_scratch();
    spill(path_of(scratch, "ferry_transport_text.so"), "#!/bin/sh\necho no\n", 18);
    refuse("text", "not a shared object: no ELF header");
    spill(path_of(scratch, "ferry_transport_empty.so"), "", 0);
    refuse("empty", "not a shared object: no ELF header");
    assert_int_equal(mkdir(path_of(scratch, "ferry_transport_folder.so"), 0700), 0);
    refuse("folder", "not a regular file");
    assert_int_equal(mkfifo(path_of(scratch, "ferry_transport_fifo.so"), 0600), 0);
    refuse("fifo", "not a regular file");
    assert_int_equal(symlink("nowhere", path_of(scratch, "ferry_transport_link.so")), 0);
    not_here("link");
    assert_int_equal(symlink("ferry_transport_b.so", path_of(scratch, "ferry_transport_a.so")),
                     0);
    assert_int_equal(symlink("ferry_transport_a.so", path_of(scratch, "ferry_transport_b.so")),
                     0);
    not_here("a");

    path = copied("ferry_transport_good.so", "ferry_transport_good.so", &data, &len);
    head = (void *)data;
    spill(path, data, 40);
    refuse("good", "truncated: 40 bytes, and its header lies beyond");
    spill(path, data, len - 1);
    refuse("good", "table of sections lies beyond");
    spill(path, data, 4097);
    refuse("good", "lies beyond");

    {
        static const struct {
            size_t at, len;
            const char *bytes, *why;
        } changes[] = {
            {EI_DATA, 1, "\2", "built for the other byte order"},
            {offsetof(Elf64_Ehdr, e_type), 2, "\1\0",
             "not a shared object: ELF type 1, wanted 3"},
            {offsetof(Elf64_Ehdr, e_type), 2, "\4\0",
             "not a shared object: ELF type 4, wanted 3"},
            {offsetof(Elf64_Ehdr, e_shentsize), 2, "\7\0", "headers of unknown size"},
            {offsetof(Elf64_Ehdr, e_phoff), 8, "\377\377\377\377\377\377\377\377",
             "its table of segments lies beyond"},
            {offsetof(Elf64_Ehdr, e_shnum), 2, "\0\0",
             "exports no symbol ferry_transport_plugin"},
        };

        for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
            char saved[8];

            memcpy(saved, data + changes[i].at, changes[i].len);
            memcpy(data + changes[i].at, changes[i].bytes, changes[i].len);
            spill(path, data, len);
            refuse("good", changes[i].why);
            memcpy(data + changes[i].at, saved, changes[i].len);
        }
    }

    head->e_machine = head->e_machine == EM_AARCH64 ? EM_X86_64 : EM_AARCH64;
    spill(path, data, len);
    refuse("good", head->e_machine == EM_AARCH64 ? "built for aarch64 (183), wanted"
                                                 : "built for x86-64 (62), wanted");
    head->e_ident[EI_CLASS] = ELFCLASS32;
    spill(path, data, len);
    refuse("good", "built for 32 bits, wanted 64");
    free(data);
}

/* What the file system has to say. */
static void files_of_other_kinds_are_not_loaded(void **state)
{
    char *data, *needed, *path;
    size_t len;
    int fd;

    empty_scratch();
    assert_int_equal(symlink("/dev/zero", path_of(scratch, "ferry_transport_zero.so")), 0);
    refuse("zero", "not a regular file");
    path = path_of(scratch, "ferry_transport_huge.so");
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)300 << 20), 0); /* a hole: takes no room */
    close(fd);
    refuse("huge", "has 314572800 bytes, more than any plugin");

    copied("ferry_metadata_store.so", "ferry_transport_store.so", NULL, &len);
    refuse("store", "no plugin of this kind: it exports no symbol ferry_transport_plugin");

    path = copied("ferry_transport_good.so", "ferry_transport_good.so", &data, &len);
    needed = memmem(data, len, "libc.so.6", 10);
    assert_non_null(needed);
    memcpy(needed, "libx.so.9", 9);
    spill(path, data, len);
    refuse("good", "libx.so.9: cannot open shared object file: No such file or directory");
    free(data);

    assert_int_equal(chmod(path, 0000), 0);
    assert_int_equal(chmod(scratch, 0755), 0);
    if (geteuid() == 0) /* who may read everything */
        assert_int_equal(seteuid(65534), 0);
    refuse("good", "cannot be opened: Permission denied");
    assert_int_equal(seteuid(getuid()), 0);
}

static void every_cut_of_a_plugin_is_seen_without_loading_it(void **state)
{
    struct ferry_transport_plugin descriptor;
    struct fy_elf elf;
    char *data, name[32];
    size_t len = slurp(path_of(built, "ferry_transport_good.so"), &data);

    assert_int_equal(fy_elf_open(data, len, FERRY_TRANSPORT_SYMBOL, &elf), FERRY_OK);
    assert_true(fy_elf_read(&elf, elf.symbol, &descriptor, sizeof(descriptor)));
    assert_int_equal(descriptor.hdr.magic, FERRY_PLUGIN_MAGIC);
    assert_int_equal(descriptor.hdr.abi_minor, 3);
    assert_true(fy_elf_text(&elf, (uintptr_t)descriptor.hdr.name, name, sizeof(name)));
    assert_string_equal(name, "good");
    assert_int_equal(fy_elf_open(data, len, FERRY_METADATA_SYMBOL, &elf), FERRY_EABI);
    for (size_t cut = 0; cut < len; cut += cut < 1024 ? 1 : 61) {
        char *copy = malloc(cut + 1); /* exact, for the address sanitizer */

        assert_non_null(copy);
        memcpy(copy, data, cut);
        assert_int_equal(fy_elf_open(copy, cut, FERRY_TRANSPORT_SYMBOL, &elf), FERRY_EABI);
        free(copy);
    }
    free(data);
}

static void what_anyone_may_write_to_is_not_used(void **state)
{
    struct fy_loader *loader;
    const struct fy_transport_plugin *plugin = NULL;
    char *path;
    size_t len;

    empty_scratch();
    path = copied("ferry_transport_good.so", "ferry_transport_good.so", NULL, &len);
    assert_int_equal(chmod(path, 0646), 0);
    refuse("good", "anyone may write to it (mode 646), so it is not loaded");
    assert_int_equal(chmod(path, 0644), 0);

    assert_int_equal(chmod(scratch, 0777), 0);
    loader = opened(scratch, NULL);
    assert_non_null(strstr(logged, "1 plugin directory "));
    assert_non_null(strstr(logged, " is not used: anyone may write to it"));
    assert_int_equal(fy_loader_transport(loader, "good", &plugin), FERRY_ENOENT);
    fy_loader_close(loader);
    assert_int_equal(chmod(scratch, 0700), 0);
    loader = opened(scratch, NULL);
    assert_int_equal(fy_loader_transport(loader, "good", &plugin), FERRY_OK);
    fy_loader_close(loader);
}

static void only_absolute_directories_count(void **state)
{
    const struct fy_transport_plugin *plugin = NULL;
    struct fy_loader *loader;
    char before[400], missing[1000];

    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(built), 0);
    loader = opened("::.:plugins", "");
    assert_non_null(strstr(logged, "1 plugin directory . is not used: not an absolute path"));
    assert_non_null(strstr(logged, "plugin directory plugins is not used: not an absolute"));
    assert_int_equal(fy_loader_transport(loader, "good", &plugin), FERRY_ENOENT);
    fy_loader_close(loader);
    assert_int_equal(chdir(before), 0);

    snprintf(missing, sizeof(missing), "%s/nothing:%s", scratch, built);
    loader = opened(missing, NULL);
    assert_non_null(strstr(logged, "/nothing is not used: No such file or directory"));
    assert_int_equal(fy_loader_transport(loader, "good", &plugin), FERRY_OK);
    fy_loader_close(loader);
}

static void who_is_not_there_hears_who_is(void **state)
{
    const struct fy_transport_plugin *plugin = NULL;
    struct fy_loader *loader;
    char want[2500], path[1000];
    size_t len;

    empty_scratch();
    copied("ferry_transport_good.so", "ferry_transport_loop.so", NULL, &len);
    copied("ferry_transport_good.so", "ferry_transport_rdma.so", NULL, &len);
    copied("ferry_transport_good.so", "ferry_transport_.so", NULL, &len);
    copied("ferry_transport_good.so", "ferry_transport_NO.so", NULL, &len);
    loader = opened(scratch, NULL);
    assert_int_equal(fy_loader_transport(loader, "rdmaa", &plugin), FERRY_ENOENT);
    snprintf(want, sizeof(want),
             "no transport \"rdmaa\"; here are: loop, rdma (in %s); did you mean \"rdma\"?",
             scratch);
    assert_string_equal(ferry_error(), want);
    assert_int_equal(fy_loader_transport(loader, "../rdma", &plugin), FERRY_ENOENT);
    assert_int_equal(fy_loader_transport(loader, "", &plugin), FERRY_ENOENT);
    assert_int_equal(fy_loader_transport(loader, "NO", &plugin), FERRY_ENOENT);
    fy_loader_close(loader);

    snprintf(path, sizeof(path), "%s/sub", scratch);
    assert_int_equal(mkdir(path, 0700), 0);
    loader = opened(path, NULL);
    assert_int_equal(fy_loader_transport(loader, "tcp", &plugin), FERRY_ENOENT);
    snprintf(want, sizeof(want), "no transport \"tcp\"; there is none in %s", path);
    assert_string_equal(ferry_error(), want);
    fy_loader_close(loader);

    copied("ferry_transport_good.so", "sub/ferry_transport_zzz.so", NULL, &len);
    snprintf(path, sizeof(path), "%s:%s/sub", scratch, scratch);
    loader = opened(path, NULL);
    assert_int_equal(fy_loader_transport(loader, "absent", &plugin), FERRY_ENOENT);
    snprintf(want, sizeof(want),
             "no transport \"absent\"; here are: loop, rdma (in %s), zzz (in %s/sub)", scratch,
             scratch);
    assert_string_equal(ferry_error(), want);
    fy_loader_close(loader);

    loader = opened(NULL, NULL);
    assert_int_equal(fy_loader_transport(loader, "tcp", &plugin), FERRY_ENOENT);
    assert_string_equal(ferry_error(), "no transport \"tcp\"; no plugin directory is known");
    fy_loader_close(loader);
}

static void the_first_directory_wins(void **state)
{
    const struct fy_transport_plugin *plugin = NULL;
    struct fy_loader *loader;
    char path[900];
    cJSON *list, *item;
    size_t len;
    int hidden = 0;

    empty_scratch();
    copied("ferry_transport_fit.so", "ferry_transport_fit.so", NULL, &len);
    loader = opened(scratch, built);
    assert_int_equal(fy_loader_transport(loader, "fit", &plugin), FERRY_OK);
    assert_string_equal(plugin->path, path_of(scratch, "ferry_transport_fit.so"));
    list = fy_loader_describe(loader);
    snprintf(path, sizeof(path), "hidden by %s/ferry_transport_fit.so", scratch);
    cJSON_ArrayForEach(item, list)
    {
        const char *reason = cJSON_GetStringValue(cJSON_GetObjectItem(item, "reason"));

        hidden += reason && !strcmp(reason, path);
    }
    assert_int_equal(hidden, 1);
    cJSON_Delete(list);
    fy_loader_close(loader);
}

static void a_link_is_the_same_plugin(void **state)
{
    const struct fy_transport_plugin *plugin = NULL, *again = NULL;
    struct fy_loader *loader;

    empty_scratch();
    assert_int_equal(symlink(path_of(built, "ferry_transport_good.so"),
                             path_of(scratch, "ferry_transport_good.so")),
                     0);
    assert_int_equal(symlink(path_of(built, "ferry_transport_good.so"),
                             path_of(scratch, "ferry_transport_alias.so")),
                     0);
    loader = opened(built, NULL);
    assert_int_equal(fy_loader_transport(loader, "good", &plugin), FERRY_OK);
    fy_loader_close(loader);
    loader = opened(scratch, NULL);
    assert_int_equal(fy_loader_transport(loader, "good", &again), FERRY_OK);
    assert_ptr_equal(plugin, again);
    assert_int_equal(fy_loader_transport(loader, "alias", &again), FERRY_EABI);
    assert_non_null(strstr(ferry_error(), "calls itself \"good\", its file \"alias\""));
    fy_loader_close(loader);
}

static void names_are_those_that_load(void **state)
{
    struct fy_loader *loader = opened(built, NULL);
    char **names = fy_loader_transport_names(loader);
    static const char *const want[] = {"fit", "good", "longer", "packed", "unfit"};

    assert_non_null(names);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(names[i], want[i]);
    assert_null(names[5]);
    assert_non_null(strstr(logged, "1 transport passed over: "));
    assert_non_null(strstr(logged, "ferry_transport_short.so: its table has 184 bytes"));
    free(names);
    fy_loader_close(loader);
}

static void stores_are_found_by_scheme(void **state)
{
    struct fy_loader *loader = opened(built, NULL);
    const struct fy_metadata_plugin *plugin = NULL, *again = NULL;

    assert_int_equal(fy_loader_metadata(loader, "store", &plugin), FERRY_OK);
    assert_string_equal(plugin->name, "store");
    assert_int_equal(plugin->ops.open(NULL, NULL, NULL, NULL), FERRY_EUNREACH);
    assert_int_equal(plugin->ops.list(NULL, "", 0, NULL), FERRY_ENOTSUP);
    assert_int_equal(plugin->ops.watch(NULL, "", NULL, NULL, NULL), FERRY_ENOTSUP);
    plugin->ops.unwatch(NULL, 0);
    assert_int_equal(fy_loader_metadata(loader, "stores", &again), FERRY_OK); /* by its list */
    assert_ptr_equal(plugin, again);
    assert_int_equal(fy_loader_metadata(loader, "noscheme", &again), FERRY_EABI);
    assert_non_null(strstr(ferry_error(), "names no URL scheme"));
    assert_int_equal(fy_loader_metadata(loader, "hole", &again), FERRY_EABI);
    assert_non_null(strstr(ferry_error(), "its table lacks \"del\", which is mandatory"));
    assert_int_equal(fy_loader_metadata(loader, "stor", &again), FERRY_ENOENT);
    assert_non_null(strstr(ferry_error(), "no metadata plugin for \"stor\"; here are: hole, "
                                          "noscheme, store (in "));
    assert_non_null(strstr(ferry_error(), "did you mean \"store\"?"));
    fy_loader_close(loader);
}

static const cJSON *described(const cJSON *list, const char *kind, const char *name)
{
    const cJSON *item;

    cJSON_ArrayForEach(item, list)
    {
        if (!strcmp(cJSON_GetObjectItem(item, "kind")->valuestring, kind) &&
            !strcmp(cJSON_GetObjectItem(item, "name")->valuestring, name))
            return item;
    }
    fail_msg("%s %s is not described", kind, name);
    return NULL;
}

static const char *text_of(const cJSON *item, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(item, key));

    return text ? text : "(none)";
}

static void everything_is_described(void **state)
{
    struct fy_loader *loader = opened(built, NULL);
    cJSON *list = fy_loader_describe(loader);
    const cJSON *item;

    assert_int_equal(cJSON_GetArraySize(list), 20);
    item = described(list, "transport", "good");
    assert_string_equal(text_of(item, "status"), "ok");
    assert_string_equal(text_of(item, "version"), "4.5.6");
    assert_string_equal(text_of(item, "abi"), "1.3");
    assert_string_equal(text_of(item, "path"), path_of(built, "ferry_transport_good.so"));
    assert_null(cJSON_GetObjectItem(item, "usable")); /* it has no probe */
    assert_null(cJSON_GetObjectItem(item, "reason"));
    assert_true(
        cJSON_IsTrue(cJSON_GetObjectItem(described(list, "transport", "fit"), "usable")));
    item = described(list, "transport", "unfit");
    assert_string_equal(text_of(item, "status"), "ok");
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(item, "usable")));
    assert_string_equal(text_of(item, "reason"), "no device of vendor 7");
    item = described(list, "transport", "major");
    assert_string_equal(text_of(item, "status"), "refused");
    assert_non_null(strstr(text_of(item, "reason"), "built for transport ABI 2.3, wanted 1.x"));
    item = described(list, "metadata", "store");
    assert_string_equal(text_of(item, "status"), "ok");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(item, "schemes")), 2);
    cJSON_Delete(list);
    fy_loader_close(loader);
}

static void *load_longer(void *arg)
{
    const struct fy_transport_plugin *plugin = NULL;
    struct fy_loader *loader = NULL;

    if (fy_loader_open(built, NULL, &loader))
        return NULL;
    (void)fy_loader_transport(loader, "magic", &plugin);
    if (fy_loader_transport(loader, "longer", &plugin))
        plugin = NULL;
    fy_loader_close(loader);
    return (void *)plugin;
}

static void threads_may_load_at_once(void **state)
{
    pthread_t threads[8];
    void *first = NULL, *other;

    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, load_longer, NULL), 0);
    for (size_t i = 0; i < 8; i++) {
        pthread_join(threads[i], &other);
        assert_non_null(other);
        first = first ? first : other;
        assert_ptr_equal(first, other);
    }
}

static int make_places(void **state)
{
    ssize_t len = readlink("/proc/self/exe", built, sizeof(built) - 10);
    const char *tmp = getenv("TMPDIR");

    if (len <= 0)
        return -1;
    built[len] = '\0';
    strcpy(strrchr(built, '/'), "/plugins");
    snprintf(scratch, sizeof(scratch), "%s/ferry-loader-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(scratch) ? 0 : -1;
}

/* Runs after plugins were loaded without it; what is loaded from here on is traced. */
static void calls_are_traced_where_asked_for(void **state)
{
    struct fy_loader *loader;
    const struct fy_transport_plugin *plugin = NULL;
    char file[500], *text;
    size_t len;

    empty_scratch();
    snprintf(file, sizeof(file), "%s/trace", scratch);
    setenv("FERRY_PLUGIN_TRACE", file, 1);
    assert_int_equal(mkdir(path_of(scratch, "traced"), 0700),
                     0); /* no test has loaded from here */
    copied("ferry_transport_fit.so", "traced/ferry_transport_fit.so", NULL, &len);
    loader = opened(path_of(scratch, "traced"), NULL);
    assert_int_equal(fy_loader_transport(loader, "fit", &plugin), FERRY_OK);
    unsetenv("FERRY_PLUGIN_TRACE");
    assert_int_equal(plugin->ops.open(NULL, &(struct ferry_kvs){NULL, 0}, NULL), FERRY_EDEVICE);
    assert_int_equal(plugin->ops.poll(NULL, NULL, 0), 0);
    assert_int_equal(plugin->ops.on_call(NULL, "", NULL, 0, NULL), FERRY_ENOTSUP);
    fy_loader_close(loader);
    len = slurp(file, &text);
    text[len] = '\0';
    assert_non_null(strstr(text, " fit.open(0 keys) = device lost or missing, "));
    assert_null(strstr(text, "poll"));    /* it found nothing */
    assert_null(strstr(text, "on_call")); /* a stub of the core, no call of the plugin */
    free(text);
}

static int remove_places(void **state)
{
    char command[1000];

    snprintf(command, sizeof(command), "rm -rf '%s'", scratch);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_plugin_is_loaded_once_for_everybody),
        cmocka_unit_test(a_longer_table_is_fine),
        cmocka_unit_test(refused_ones_say_file_found_and_wanted),
        cmocka_unit_test(what_is_no_shared_object_is_not_loaded),
        cmocka_unit_test(files_of_other_kinds_are_not_loaded),
        cmocka_unit_test(every_cut_of_a_plugin_is_seen_without_loading_it),
        cmocka_unit_test(what_anyone_may_write_to_is_not_used),
        cmocka_unit_test(only_absolute_directories_count),
        cmocka_unit_test(who_is_not_there_hears_who_is),
        cmocka_unit_test(the_first_directory_wins),
        cmocka_unit_test(a_link_is_the_same_plugin),
        cmocka_unit_test(names_are_those_that_load),
        cmocka_unit_test(stores_are_found_by_scheme),
        cmocka_unit_test(everything_is_described),
        cmocka_unit_test(threads_may_load_at_once),
        cmocka_unit_test(calls_are_traced_where_asked_for),
    };

    return cmocka_run_group_tests(tests, make_places, remove_places);
}
