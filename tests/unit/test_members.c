/* SPDX-License-Identifier: Apache-2.0 */
/* A transport's configuration by its table: every kind of member, and what is said of bad ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "last_log.h"
#include "members.h"

enum speed { SLOW, FAST, FASTEST };

struct config {
    int32_t index;
    uint64_t bytes;
    char name[8];
    enum speed speed;
    bool loud;
};

static const struct ft_member members[] = {
    FT_NUMBER("index", struct config, index, 0, 255, (uint64_t)-1),
    FT_NUMBER("bytes", struct config, bytes, 16, UINT64_C(1) << 40, 4096),
    FT_TEXT("name", struct config, name, 1, "auto"),
    FT_WORD("speed", struct config, speed, "slow, fast, fastest"),
    FT_SWITCH("loud", struct config, loud),
    FT_NUMBER("core.port", struct config, bytes, 0, 65535, 4096),
    FT_IGNORED("old"),
};
#define N_MEMBERS (sizeof(members) / sizeof(members[0]))

static ferry_status read_bytes(const char *key, const void *value, size_t len,
                               struct config *config)
{
    struct ferry_kv v = {.key = key, .val = value, .val_len = (uint32_t)len};
    struct ferry_kvs kvs = {.v = &v, .n = 1};

    last[0] = '\0';
    return ft_members_read(&host, &kvs, members, N_MEMBERS, config);
}

static ferry_status read_one(const char *key, const char *value, struct config *config)
{
    return read_bytes(key, value, strlen(value), config);
}

static void refused(const char *key, const char *value, const char *why)
{
    struct config config;

    assert_int_equal(read_one(key, value, &config), FERRY_EINVAL);
    assert_string_equal(last, why);
}

static void what_is_not_said_has_a_start(void **state)
{
    struct config config;

    memset(&config, 0xa5, sizeof(config));
    assert_int_equal(ft_members_read(&host, NULL, members, N_MEMBERS, &config), FERRY_OK);
    assert_int_equal(config.index, -1);
    assert_int_equal(config.bytes, 4096);
    assert_string_equal(config.name, "auto");
    assert_int_equal(config.speed, SLOW);
    assert_false(config.loud);
}

static void each_kind_is_read(void **state)
{
    struct config config;

    assert_int_equal(read_one("index", "255", &config), FERRY_OK);
    assert_int_equal(config.index, 255);
    assert_int_equal(read_one("index", "010", &config), FERRY_OK); /* not octal */
    assert_int_equal(config.index, 10);
    assert_int_equal(read_one("index", "0x1f", &config), FERRY_OK);
    assert_int_equal(config.index, 31);
    assert_int_equal(read_one("bytes", "1099511627776", &config), FERRY_OK);
    assert_true(config.bytes == UINT64_C(1) << 40);
    assert_int_equal(read_one("name", "seven77", &config), FERRY_OK);
    assert_string_equal(config.name, "seven77");
    assert_int_equal(read_one("speed", "fast", &config), FERRY_OK);
    assert_int_equal(config.speed, FAST);
    assert_int_equal(read_one("speed", "fastest", &config), FERRY_OK);
    assert_int_equal(config.speed, FASTEST);
    assert_int_equal(read_one("loud", "true", &config), FERRY_OK);
    assert_true(config.loud);
    assert_int_equal(read_one("loud", "0", &config), FERRY_OK);
    assert_false(config.loud);
    assert_int_equal(read_one("old", "whatever", &config), FERRY_OK);
    assert_int_equal(read_one("core.port", "7", &config), FERRY_OK);
    assert_int_equal(config.bytes, 7);
    assert_int_equal(read_one("core.unheard_of", "x", &config), FERRY_OK);
}

static void what_is_wrong_is_named_with_what_is_allowed(void **state)
{
    static char huge[5000];
    struct config config;

    refused("index", "256", "index is \"256\", allowed are 0 to 255");
    refused("index", "-1", "index is \"-1\", allowed are 0 to 255");
    refused("index", "", "index is \"\", allowed are 0 to 255");
    refused("index", "1 ", "index is \"1 \", allowed are 0 to 255");
    refused("index", "0x", "index is \"0x\", allowed are 0 to 255");
    refused("bytes", "15", "bytes is \"15\", allowed are 16 to 1099511627776");
    refused("bytes", "99999999999999999999",
            "bytes is \"99999999999999999999\", allowed are 16 to 1099511627776");
    refused("name", "", "name is \"\", allowed are 1 to 7 characters");
    refused("name", "eight888", "name is \"eight888\", allowed are 1 to 7 characters");
    refused("speed", "fas", "speed is \"fas\", allowed are slow, fast, fastest");
    refused("speed", "", "speed is \"\", allowed are slow, fast, fastest");
    refused("speed", "slow, fast", "speed is \"slow, fast\", allowed are slow, fast, fastest");
    refused("loud", "yes", "loud is \"yes\", allowed are true, false");
    refused("quiet", "1", "unknown key \"quiet\", allowed are index, bytes, name, speed, loud");
    assert_int_equal(read_bytes("name", "a\0b", 3, &config), FERRY_EINVAL);
    assert_string_equal(last, "name: a text of less than 1024 bytes is allowed");
    memset(huge, 'x', sizeof(huge));
    assert_int_equal(read_bytes("name", huge, sizeof(huge), &config), FERRY_EINVAL);
    assert_int_equal(read_bytes("name", NULL, 0, &config), FERRY_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_said_has_a_start),
        cmocka_unit_test(each_kind_is_read),
        cmocka_unit_test(what_is_wrong_is_named_with_what_is_allowed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
