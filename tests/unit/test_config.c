/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cjson/cJSON.h>
#include <cmocka.h>

#include "config_parts.h"
#include "error.h"
#include "util/buf.h"

static char folder[] = "/tmp/ferry-config-XXXXXX";

struct lines {
    struct fy_log log;
    struct fy_buf buf;
};

static void keep_line(void *arg, int level, const char *message)
{
    assert_int_equal(fy_buf_printf(arg, "%d %s\n", level, message), FERRY_OK);
}

/* Every variable that the table knows is gone, and the log is empty. */
static int set_up(void **state)
{
    struct lines *lines = calloc(1, sizeof(*lines));

    for (size_t i = 0; i < fy_envs_n; i++) {
        unsetenv(fy_envs[i].name);
        if (fy_envs[i].alias)
            unsetenv(fy_envs[i].alias);
    }
    if (!lines)
        return -1;
    lines->log = (struct fy_log){FERRY_LOG_INFO, keep_line, &lines->buf};
    fy_buf_init(&lines->buf, 0);
    *state = lines;
    return 0;
}

static int tear_down(void **state)
{
    struct lines *lines = *state;

    fy_buf_fini(&lines->buf);
    free(lines);
    return 0;
}

static const char *logged(struct lines *lines)
{
    return lines->buf.data ? lines->buf.data : "";
}

static const char *file_with(const char *name, const void *text, size_t len)
{
    static char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    return path;
}

static struct fy_config *from_text(struct lines *lines, const char *name, const char *text,
                                   const char *role, const struct ferry_options *options)
{
    struct fy_config *config = NULL;
    ferry_status status = fy_config_from_file(file_with(name, text, strlen(text)), role,
                                              options, &lines->log, &config);

    if (status != FERRY_OK)
        fail_msg("%s", ferry_error());
    return config;
}

static struct fy_config *from_options(struct lines *lines, struct ferry_options options)
{
    struct fy_config *config = NULL;

    options.size = sizeof(options);
    if (fy_config_from_options(&options, &lines->log, &config) != FERRY_OK)
        fail_msg("%s", ferry_error());
    return config;
}

static void key_is(const struct fy_config *config, const char *section, const char *key,
                   const char *value)
{
    const char *found;
    struct fy_kv kv;

    fy_kv_init(&kv);
    assert_int_equal(fy_config_section(config, section, &kv), FERRY_OK);
    found = fy_kv_text(&kv.kvs, key, NULL);
    if (!value)
        assert_null(found);
    else if (!found)
        fail_msg("%s has no %s", section, key);
    else
        assert_string_equal(found, value);
    fy_kv_fini(&kv);
}

/* ---- the file ---- */

static void the_ending_says_the_language(void **state)
{
    struct fy_config *config;

    config = from_text(*state, "a.json", "{\"protocol\": \"tcp\"}", NULL, NULL);
    assert_string_equal(config->protocol, "tcp");
    fy_config_free(config);
    config = from_text(*state, "a.yaml", "protocol: tcp", NULL, NULL);
    assert_string_equal(config->protocol, "tcp");
    fy_config_free(config);
    config = from_text(*state, "a.YML", "protocol: tcp", NULL, NULL);
    assert_string_equal(config->protocol, "tcp");
    fy_config_free(config);
    assert_int_equal(
        fy_config_from_file(file_with("yaml", "protocol: tcp", 13), NULL, NULL, NULL, &config),
        FERRY_EINVAL);
    assert_non_null(strstr(ferry_error(), "/yaml:1:1: protocol is no value"));
}

static void fails(const char *path, ferry_status status, const char *text)
{
    struct fy_config *config = NULL;

    assert_int_equal(fy_config_from_file(path, NULL, NULL, NULL, &config), status);
    assert_null(config);
    if (!strstr(ferry_error(), text))
        fail_msg("\"%s\" is not in \"%s\"", text, ferry_error());
}

static void files_that_cannot_be_read(void **state)
{
    char *large = malloc(1048577);
    char path[128];

    assert_non_null(large);
    memset(large, ' ', 1048577);
    memcpy(large, "{}", 2);
    snprintf(path, sizeof(path), "%s/nowhere.json", folder);
    fails(path, FERRY_ENOENT, "nowhere.json: cannot be opened: No such file");
    fails(folder, FERRY_EINVAL, "not a regular file");
    fails("/dev/null", FERRY_EINVAL, "not a regular file");
    snprintf(path, sizeof(path), "%s/fifo.json", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    fails(path, FERRY_EINVAL, "not a regular file");
    fails(file_with("nul.json", "{}\0", 3), FERRY_EINVAL, "nul.json: a NUL at byte 2");
    fails(file_with("utf16.yaml", "\xff\xfe{\0}\0", 6), FERRY_EINVAL, "a NUL at byte 3");
    fails(file_with("large.json", large, 1048577), FERRY_EINVAL, "larger than 1 MiB");
    if (geteuid() != 0) {
        assert_int_equal(chmod(file_with("closed.json", "{}", 2), 0), 0);
        snprintf(path, sizeof(path), "%s/closed.json", folder);
        fails(path, FERRY_EINVAL, "cannot be opened: Permission denied");
    }
    fy_config_free(from_text(*state, "most.json", "{}", NULL, NULL));
    large[1048576] = 0;
    fy_config_free(from_text(*state, "most.json", large, NULL, NULL)); /* 1 MiB is allowed */
    free(large);
}

static void the_variable_names_the_file(void **state)
{
    struct fy_config *config = NULL;

    fails(NULL, FERRY_ENOENT, "set MOONCAKE_CONFIG_PATH");
    setenv("MOONCAKE_CONFIG_PATH", file_with("env.json", "{\"device_name\": \"a\"}", 20), 1);
    assert_int_equal(fy_config_from_file(NULL, NULL, NULL, NULL, &config), FERRY_OK);
    assert_string_equal(config->device_name, "a");
    assert_non_null(strstr(config->path, "/env.json"));
    fy_config_free(config);
}

/* ---- options ---- */

static void no_file_gives_defaults(void **state)
{
    struct fy_config *config = NULL;

    assert_int_equal(fy_config_from_options(NULL, NULL, &config), FERRY_OK);
    assert_null(config->path);
    assert_null(config->name);
    assert_null(config->protocol);
    assert_string_equal(config->role, "");
    assert_string_equal(config->metadata_server, "P2PHANDSHAKE");
    assert_string_equal(config->cluster_id, "");
    assert_int_equal(config->min_port, 15000);
    assert_int_equal(config->max_port, 17000);
    assert_int_equal(config->default_port, 12001);
    assert_int_equal(fy_config_int(config, "queues", 7), 7);
    fy_config_free(config);
}

static void options_win_over_the_file(void **state)
{
    const struct ferry_options options = {
        .size = sizeof(options),
        .log_level = 3,
        .name = "10.9.9.9:0",
        .bind = "10.9.9.9",
        .metadata_server = "10.9.9.9:2379",
        .protocol = "shm",
        .device_name = "lo",
        .config_json = "{\"timeout_ms\": 5, \"tcp\": {\"spin_us\": 7}, \"x\": {\"y\": 1}}",
    };
    struct fy_config *config = from_text(
        *state, "o.json",
        "{\"prefill_url\": \"a:1\", \"decode_url\": \"b:1\", \"protocol\": \"tcp\","
        " \"metadata_server\": \"P2PHANDSHAKE\", \"device_name\": \"eth0\","
        " \"ferry\": {\"bind\": \"::\", \"timeout_ms\": 1, \"queues\": 2, \"log_level\": 1,"
        " \"tcp\": {\"spin_us\": 50, \"lanes\": 3}}}",
        "prefill", &options);

    assert_string_equal(config->name, "10.9.9.9:0");
    assert_string_equal(config->peer_name, "b:1");
    assert_string_equal(config->bind, "10.9.9.9");
    assert_string_equal(config->metadata_server, "etcd://10.9.9.9:2379");
    assert_string_equal(config->protocol, "shm");
    assert_string_equal(config->device_name, "lo");
    assert_int_equal(config->log_level, 3);
    assert_int_equal(fy_config_int(config, "timeout_ms", 0), 5);
    assert_int_equal(fy_config_int(config, "queues", 0), 2);
    key_is(config, "tcp", "spin_us", "7");
    key_is(config, "tcp", "lanes", "3");
    key_is(config, "x", "y", "1");
    assert_string_equal(logged(*state), "");
    fy_config_free(config);
}

static void empty_options_say_nothing(void **state)
{
    const struct ferry_options options = {.size = sizeof(options),
                                          .name = "",
                                          .bind = "",
                                          .metadata_server = "",
                                          .protocol = "",
                                          .device_name = "",
                                          .config_json = ""};
    struct fy_config *config =
        from_text(*state, "e.json",
                  "{\"prefill_url\": \"a:1\", \"protocol\": \"tcp\", \"device_name\": \"eth0\","
                  " \"metadata_server\": \"http://m/x\", \"ferry\": {\"bind\": \"::\"}}",
                  "prefill", &options);

    assert_string_equal(config->name, "a:1");
    assert_string_equal(config->protocol, "tcp");
    assert_string_equal(config->device_name, "eth0");
    assert_string_equal(config->metadata_server, "http://m/x");
    assert_string_equal(config->bind, "::");
    fy_config_free(config);
}

static void options_are_checked_too(void **state)
{
    static const struct {
        struct ferry_options options;
        const char *text;
    } cases[] = {
        {{.protocol = "tcp,,shm"}, "options: \"protocol\" is \"tcp,,shm\""},
        {{.metadata_server = "nobody"}, "options: \"metadata_server\" is \"nobody\""},
        {{.config_json = "{\"timeout_ms\":\n x}"}, "options.config_json:2:2: x is no value"},
        {{.config_json = "{\"qeues\": 2}"},
         "options.config_json:1:2: unknown member \"ferry.q"},
        {{.config_json = "[]"}, "options.config_json:1:1: this is a list"},
        {{.config_json = "{\"min_port\": 20000}"},
         "options.config_json:1:14: \"ferry.min_port"},
    };
    struct fy_config *config = NULL;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ferry_options options = cases[i].options;

        options.size = sizeof(options);
        assert_int_equal(fy_config_from_options(&options, NULL, &config), FERRY_EINVAL);
        if (strncmp(ferry_error(), cases[i].text, strlen(cases[i].text)) != 0)
            fail_msg("\"%s\" does not begin with \"%s\"", ferry_error(), cases[i].text);
    }
}

static void members_beyond_the_size_are_not_read(void **state)
{
    struct ferry_options options;
    struct fy_config *config = NULL;

    memset(&options, 0x5a, sizeof(options)); /* a pointer of it would crash */
    options.name = "10.0.0.1:1";
    options.size = (uint32_t)(offsetof(struct ferry_options, name) + sizeof(options.name));
    assert_int_equal(fy_config_from_options(&options, NULL, &config), FERRY_OK);
    assert_string_equal(config->name, "10.0.0.1:1");
    assert_null(config->protocol);
    fy_config_free(config);
    options.size = 0;
    assert_int_equal(fy_config_from_options(&options, NULL, &config), FERRY_EINVAL);
}

static void the_name_of_the_file_stands_in_without_a_role(void **state)
{
    struct fy_config *config =
        from_text(*state, "n.json", "{\"ferry\": {\"name\": \"a:1\"}}", NULL, NULL);

    assert_string_equal(config->name, "a:1");
    fy_config_free(config);
}

/* ---- environment ---- */

static void variables_fill_what_nobody_says(void **state)
{
    struct fy_config *config;

    setenv("MC_METADATA_CLUSTER_ID", "prod", 1);
    setenv("MC_MIN_PRC_PORT", "20000", 1);
    setenv("MC_MAX_RPC_PORT", "21000", 1);
    setenv("MC_HANDSHAKE_PORT", "12345", 1);
    setenv("MC_TCP_BIND_ADDRESS", "10.0.0.7", 1);
    setenv("MC_USE_IPV6", "", 1);
    setenv("MC_TRANSFER_TIMEOUT", "60", 1);
    setenv("MC_LOG_LEVEL", "WARNING", 1);
    setenv("MC_REDIS_PASSWORD", "open sesame", 1);
    setenv("MC_REDIS_DB_INDEX", "3", 1);
    setenv("NCCL_IB_GID_INDEX", "5", 1);
    config = from_options(*state, (struct ferry_options){.metadata_server = "10.0.0.1:2379"});
    assert_string_equal(config->cluster_id, "prod/");
    assert_int_equal(config->min_port, 20000);
    assert_int_equal(config->max_port, 21000);
    assert_int_equal(config->default_port, 12345);
    assert_string_equal(config->advertise, "10.0.0.7");
    assert_null(config->bind);
    assert_int_equal(config->ipv6, 1);
    assert_int_equal(fy_config_int(config, "timeout_ms", 0), 60000);
    assert_int_equal(config->log_level, FERRY_LOG_WARN);
    key_is(config, "redis", "password", "open sesame");
    key_is(config, "redis", "db", "3");
    key_is(config, "rdma", "gid_index", "5");
    assert_string_equal(logged(*state), "");
    fy_config_free(config);
}

static void the_file_wins_over_variables(void **state)
{
    struct fy_config *config;

    setenv("MC_METADATA_CLUSTER_ID", "prod", 1);
    setenv("MC_REDIS_PASSWORD", "open sesame", 1);
    setenv("MC_REDIS_USERNAME", "ali", 1);
    setenv("MC_GID_INDEX", "1", 1);
    setenv("NCCL_IB_GID_INDEX", "5", 1);
    config =
        from_text(*state, "w.json",
                  "{\"ferry\": {\"cluster_id\": \"lab/\", \"redis\": {\"password\": \"x\"}}}",
                  NULL, NULL);
    assert_string_equal(config->cluster_id, "lab/");
    key_is(config, "redis", "password", "x");
    key_is(config, "redis", "username", "ali");
    key_is(config, "rdma", "gid_index", "1");
    fy_config_free(config);
}

static void bad_variables_are_named(void **state)
{
    struct fy_config *config;

    setenv("MC_MIN_RPC_PORT", "40000", 1);
    setenv("MC_MAX_RPC_PORT", "http", 1);
    setenv("MC_HANDSHAKE_PORT", "70000", 1);
    setenv("MC_TRANSFER_TIMEOUT", "4", 1);
    setenv("MC_LOG_LEVEL", "LOUD", 1);
    config = from_options(*state, (struct ferry_options){0});
    assert_int_equal(config->min_port, 15000);
    assert_int_equal(config->max_port, 17000);
    assert_int_equal(config->default_port, 12001);
    assert_string_equal(
        logged(*state),
        "1 environment: MC_MIN_RPC_PORT=40000 is ignored, as Mooncake ignores it: 32768 to "
        "60999 is where outgoing connections take their ports\n"
        "1 environment: MC_MAX_RPC_PORT=http is ignored; allowed is a whole number from 1024 "
        "to 65535\n"
        "1 environment: MC_HANDSHAKE_PORT=70000 is ignored; allowed is a whole number from 1 to "
        "65535\n"
        "1 environment: MC_TRANSFER_TIMEOUT=4 counts as 5; allowed is 5 to 86400\n"
        "1 environment: MC_LOG_LEVEL=LOUD is ignored; allowed are TRACE, INFO, WARNING or "
        "ERROR\n");
    fy_config_free(config);
}

/* As Mooncake does: both ends or neither. */
static void ports_are_judged_together(void **state)
{
    static const char *const pairs[][2] = {
        {"20000", ""},      {"", "14000"},      {"20000", "19000"},
        {"30000", "40000"}, {"20000", "40000"},
    };

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        struct fy_config *config;

        setenv("MC_MIN_RPC_PORT", pairs[i][0], 1);
        setenv("MC_MAX_RPC_PORT", pairs[i][1], 1);
        config = from_options(*state, (struct ferry_options){0});
        assert_int_equal(config->min_port, 15000);
        assert_int_equal(config->max_port, 17000);
        assert_non_null(strstr(logged(*state), "_RPC_PORT is ignored, as Mooncake ignores it: "
                                               "the two ends"));
        fy_config_free(config);
    }
    setenv("MC_MIN_RPC_PORT", "20000", 1);
    unsetenv("MC_MAX_RPC_PORT");
    fy_config_free(
        from_text(*state, "p.json", "{\"ferry\": {\"max_port\": 20100}}", NULL, NULL));
}

static void limits_are_the_nearest(void **state)
{
    struct fy_config *config;

    setenv("MC_MAX_WR", "65535", 1);
    setenv("MC_MAX_INLINE", "4096", 1);
    setenv("MC_MAX_CQE_PER_CTX", "1", 1);
    setenv("MC_NUM_QP_PER_EP", "many", 1);
    config = from_options(*state, (struct ferry_options){0});
    key_is(config, "rdma", "max_wr", "16384");
    key_is(config, "rdma", "max_inline", "1024");
    key_is(config, "rdma", "max_cqe", "16");
    assert_non_null(
        strstr(logged(*state), "MC_MAX_WR=65535 counts as 16384; allowed is 4 to 16384"));
    assert_non_null(strstr(logged(*state), "MC_NUM_QP_PER_EP=many is ignored"));
    fy_config_free(config);
}

static void a_host_to_publish_wants_a_server(void **state)
{
    struct fy_config *config;

    setenv("MC_TCP_BIND_ADDRESS", "10.0.0.7", 1);
    config = from_options(*state, (struct ferry_options){.metadata_server = "P2PHANDSHAKE"});
    assert_null(config->advertise);
    assert_non_null(strstr(logged(*state), "MC_TCP_BIND_ADDRESS is ignored"));
    fy_config_free(config);
}

static void variables_without_effect_are_named(void **state)
{
    setenv("MC_SLICE_SIZE", "65536", 1);
    setenv("MC_TCP_PROTO", "1", 1);
    fy_config_free(from_options(*state, (struct ferry_options){0}));
    assert_string_equal(
        logged(*state),
        "1 environment: set and without effect here (docs/configuration.md says "
        "why): MC_SLICE_SIZE, MC_TCP_PROTO\n");
}

static void one_transport_can_be_forced(void **state)
{
    struct fy_config *config;

    setenv("MC_FORCE_TCP", "0", 1); /* set to anything, as Mooncake has it */
    config = from_options(*state, (struct ferry_options){.protocol = "rdma"});
    assert_string_equal(config->protocol, "tcp");
    assert_string_equal(logged(*state),
                        "1 environment: MC_FORCE_TCP is set: protocol tcp instead of rdma\n");
    fy_config_free(config);
}

static void the_parser_reads_no_environment(void **state)
{
    struct fy_config *config = NULL;

    setenv("MC_FORCE_TCP", "1", 1);
    setenv("MC_METADATA_CLUSTER_ID", "prod", 1);
    assert_int_equal(fy_config_parse("{}", 2, 0, "x", NULL, NULL, &config), FERRY_OK);
    assert_null(config->protocol);
    assert_string_equal(config->cluster_id, "");
    fy_config_free(config);
}

/* ---- handing on ---- */

static void sections_are_flat(void **state)
{
    struct fy_config *config = from_text(
        *state, "s.json",
        "{\"ferry\": {\"tcp\": {\"a\": \"x\", \"b\": -3, \"c\": 0.5, \"d\": true, \"e\": null,"
        " \"f\": {\"g\": {\"h\": 9007199254740992}}, \"i\": [1, \"two\", false], \"j\": [],"
        " \"k\": [{\"l\": 1}, [2, 3]], \"m\": \"\", \"n\": {}}, \"queues\": 1}}",
        NULL, NULL);
    struct fy_kv kv;

    key_is(config, "tcp", "a", "x");
    key_is(config, "tcp", "b", "-3");
    key_is(config, "tcp", "c", "0.5");
    key_is(config, "tcp", "d", "true");
    key_is(config, "tcp", "e", NULL);
    key_is(config, "tcp", "f.g.h", "9007199254740992");
    key_is(config, "tcp", "i", "1,two,false");
    key_is(config, "tcp", "j", "");
    key_is(config, "tcp", "k.0.l", "1");
    key_is(config, "tcp", "k.1", "2,3");
    key_is(config, "tcp", "m", "");
    fy_kv_init(&kv);
    assert_int_equal(fy_config_section(config, "tcp", &kv), FERRY_OK);
    assert_int_equal(kv.kvs.n, 10);
    assert_int_equal(kv.kvs.v[0].flags, FERRY_KV_TEXT);
    fy_kv_fini(&kv);
    fy_kv_init(&kv);
    assert_int_equal(fy_config_section(config, "nobody", &kv), FERRY_OK);
    assert_int_equal(fy_config_section(config, "queues", &kv), FERRY_OK);
    assert_int_equal(kv.kvs.n, 0);
    fy_kv_fini(&kv);
    fy_config_free(config);
}

static void secrets_are_not_described(void **state)
{
    struct fy_config *config;
    cJSON *json;
    char *text;

    setenv("MC_REDIS_PASSWORD", "sesame1", 1);
    config = from_text(
        *state, "secret.json",
        "{\"metadata_server\": \"redis://ali:sesame2@h:1/?x=1&Token=sesame3&y=2\", \"ferry\": {"
        "\"http\": {\"bearer_token\": \"sesame4\", \"tls\": {\"key\": \"sesame5\"}, \"api_key\": 5,"
        " \"keys\": \"open\", \"urls\": [\"etcd://u:sesame6@a,u:sesame7@b\"], \"my_secret\":"
        " [\"sesame8\"]}}}",
        NULL, NULL);
    json = fy_config_describe(config);
    text = cJSON_PrintUnformatted(json);
    assert_null(strstr(text, "sesame"));
    assert_non_null(strstr(text, "\"redis://ali:***@h:1/?x=1&Token=***&y=2\""));
    assert_non_null(strstr(text, "\"keys\":\"open\""));
    assert_non_null(strstr(text, "\"api_key\":\"***\""));
    assert_string_equal(config->metadata_server,
                        "redis://ali:sesame2@h:1/?x=1&Token=sesame3&y=2");
    free(text);
    cJSON_Delete(json);
    fy_config_free(config);
}

static void urls_are_hidden(void **state)
{
    static const char *const cases[][2] = {
        {"http://h:1/m", "http://h:1/m"},
        {"redis://:pw@h", "redis://:***@h"},
        {"redis://u:p@w@h", "redis://u:***@h"},
        {"redis://u:p/w?x@h", "redis://u:***@h"},
        {"redis://token@h", "redis://***@h"},
        {"u:pw@h:1", "u:***@h:1"},
        {"http://h/?password", "http://h/?password"},
        {"http://h/?password=", "http://h/?password="},
        {"http://h/?password=ab", "http://h/?password=**"},
        {"http://h/?secret_key=abcdef&a=1", "http://h/?secret_key=***&a=1"},
        {"http://h/?a=1&token=abcd", "http://h/?a=1&token=***"},
    };
    char out[64], small[12];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fy_config_hide(cases[i][0], out, sizeof(out));
        assert_string_equal(out, cases[i][1]);
    }
    fy_config_hide("redis://u:password@host", small, sizeof(small));
    assert_string_equal(small, "redis://u:*");
}

/* ---- words ---- */

static void slips_are_near(void **state)
{
    assert_true(fy_word_is_near("protocl", "protocol"));
    assert_true(fy_word_is_near("PROTOCOL", "protocol"));
    assert_true(fy_word_is_near("prefill-url", "prefill_url"));
    assert_true(fy_word_is_near("decodeUrl", "decode_url"));
    assert_true(fy_word_is_near("metadata_sever", "metadata_server"));
    assert_true(fy_word_is_near("device_naem", "device_name"));
    assert_true(fy_word_is_near("protcl", "protocol"));
    assert_true(fy_word_is_near("bnid", "bind"));
    assert_false(fy_word_is_near("protocol", "protocol"));
    assert_false(fy_word_is_near("proto", "protocol"));
    assert_false(fy_word_is_near("fund", "bind"));
    assert_false(fy_word_is_near("mine", "name"));
    assert_false(fy_word_is_near("decode_url_of_the_node_that_is_far_away", "decode_url"));
}

static void known_words_are_found(void **state)
{
    for (size_t i = 0; i < fy_members_n; i++) {
        assert_ptr_equal(fy_member_find(fy_members[i].home, fy_members[i].name),
                         &fy_members[i]);
        assert_non_null(fy_members[i].help);
    }
}

static int make_folder(void **state)
{
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_ending_says_the_language),
        TEST(files_that_cannot_be_read),
        TEST(the_variable_names_the_file),
        TEST(no_file_gives_defaults),
        TEST(options_win_over_the_file),
        TEST(empty_options_say_nothing),
        TEST(options_are_checked_too),
        TEST(members_beyond_the_size_are_not_read),
        TEST(the_name_of_the_file_stands_in_without_a_role),
        TEST(variables_fill_what_nobody_says),
        TEST(the_file_wins_over_variables),
        TEST(bad_variables_are_named),
        TEST(ports_are_judged_together),
        TEST(limits_are_the_nearest),
        TEST(a_host_to_publish_wants_a_server),
        TEST(variables_without_effect_are_named),
        TEST(one_transport_can_be_forced),
        TEST(the_parser_reads_no_environment),
        TEST(sections_are_flat),
        TEST(secrets_are_not_described),
        TEST(urls_are_hidden),
        TEST(slips_are_near),
        TEST(known_words_are_found),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
