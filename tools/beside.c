/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the suites, templates and plugins that belong to this very command. */
#include "beside.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Relative to the command's folder: installed, and in the build folder. */
static const char *const places[][2] = {
    [BESIDE_SUITES] = {FERRY_REL_LIBEXEC, "../tests/conformance/suite"},
    [BESIDE_TEMPLATES] = {FERRY_REL_DATA "/templates", "../templates"},
    [BESIDE_PLUGINS] = {FERRY_REL_PLUGINS, "../transports"},
};

bool beside(enum beside what, const char *name, char *path, size_t room)
{
    char self[4096], *slash;
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[len > 0 ? len : 0] = '\0';
    slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    for (int i = 1; i >= 0; i--) { /* the build folder's is there only in a build folder */
        snprintf(path, room, "%s/%s%s%s", self, places[what][i], *name ? "/" : "", name);
        if (access(path, R_OK) == 0)
            return true;
    }
    return false;
}
