/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text about the commands, made from their tables: --help, the manual page, the completion of
 * bash. Knows no command by name.
 */
#include "help.h"

#include <string.h>

enum { WIDTH = 88, COLUMN = 26 };

static const char *const exits[][2] = {
    {"0", "it did what it was asked, and every check passed"},
    {"1", "it ran, and bytes were wrong, a transfer failed or a plugin was refused"},
    {"2", "the command line or the configuration is wrong"},
    {"3", "no engine could be opened, or the peer was not there or was lost"},
    {"130", "interrupted"},
};

static void wrap(FILE *out, const char *text, int column, int indent)
{
    while (*text) {
        int len = (int)strcspn(text, " \n");
        if (column > indent && column + 1 + len > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", len, text);
        column += len;
        text += len;
        if (text[0] == '\n' && text[1] == '\n') {
            fprintf(out, "\n\n%*s", indent, "");
            column = indent;
        }
        text += strspn(text, " \n");
    }
    fputc('\n', out);
}

static void option_head(char *text, size_t room, const struct opt *opt)
{
    char letter[8] = "    ";

    if (opt->letter)
        snprintf(letter, sizeof(letter), "-%c, ", opt->letter);
    snprintf(text, room, "%s--%s%s%s", letter, opt->name, opt->meta ? " " : "",
             opt->meta ? opt->meta : "");
}

static void option_tail(char *text, size_t room, const struct opt *opt)
{
    snprintf(text, room, "%s%s%s%s%s%s", opt->help, opt->choices ? ": " : "",
             opt->choices ? opt->choices : "", opt->def ? " (default " : "",
             opt->def ? opt->def : "", opt->def ? ")" : "");
}

static void option_line(FILE *out, const char *head, const char *tail)
{
    int column = 2 + (int)strlen(head);

    fprintf(out, "  %s", head);
    if (column + 2 > COLUMN) {
        fputc('\n', out);
        column = 0;
    }
    fprintf(out, "%*s", COLUMN - column, "");
    wrap(out, tail, COLUMN, COLUMN);
}

void help_command(FILE *out, const struct command *command)
{
    fprintf(out, "ferry %s - %s\n\nUsage: ferry %s [options]%s%s\n\n", command->name,
            command->summary, command->name, *command->synopsis ? " " : "", command->synopsis);
    wrap(out, command->about, 0, 0);
    fprintf(out, "\nOptions:\n");
    for (const struct opt *opt = command->opts; opt->name; opt++) {
        char head[80], tail[512];
        option_head(head, sizeof(head), opt);
        option_tail(tail, sizeof(tail), opt);
        option_line(out, head, tail);
    }
    option_line(out, "-h, --help", "this text");
    if (command->examples) {
        fprintf(out, "\nExamples:\n");
        for (const struct example *e = command->examples; e->line; e++) {
            fprintf(out, "  %s\n      ", e->line);
            wrap(out, e->what, 6, 6);
        }
    }
    fprintf(out, "\nExit status: 0 fine, 1 wrong bytes or failed transfers, 2 usage, 3 peer or "
                 "engine lost,\n130 interrupted\n");
}

void help_overview(FILE *out, const struct command *const *commands)
{
    fprintf(
        out,
        "ferry - KV cache between machines\n\nUsage: ferry COMMAND [options]\n\nCommands:\n");
    for (; *commands; commands++)
        option_line(out, (*commands)->name, (*commands)->summary);
    fprintf(out,
            "\n'ferry COMMAND --help' tells more, 'ferry --version' the version, 'man ferry' "
            "all of it.\n");
}

static void roff(FILE *out, const char *text)
{
    bool start = true;

    for (; *text; text++) {
        if (text[0] == '\n' && text[1] == '\n') {
            fprintf(out, "\n.PP\n");
            text++;
            start = true;
            continue;
        }
        if (start && (*text == '.' || *text == '\''))
            fprintf(out, "\\&");
        start = *text == '\n';
        if (*text == '\\')
            fprintf(out, "\\e");
        else if (*text == '-')
            fprintf(out, "\\-");
        else
            fputc(*text, out);
    }
    fputc('\n', out);
}

void help_man(FILE *out, const struct command *const *commands, const char *version)
{
    fprintf(out, ".TH FERRY 1 \"\" \"ferry %s\" \"User Commands\"\n", version);
    fprintf(out, ".SH NAME\nferry \\- KV cache between machines\n.SH SYNOPSIS\n");
    fprintf(out, ".B ferry\n.I COMMAND\n[options]\n.br\n.B ferry \\-\\-version\n");
    fprintf(out, ".SH DESCRIPTION\n");
    roff(out, "Moves registered memory, such as the KV cache of a language model, between "
              "processes: one-sided, in batches, over the transports that are installed.");
    fprintf(out, ".SH COMMANDS\n");
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(out, ".SS \"ferry %s [options]%s%s\"\n", (*c)->name, *(*c)->synopsis ? " " : "",
                (*c)->synopsis);
        roff(out, (*c)->about);
        for (const struct opt *opt = (*c)->opts; opt->name; opt++) {
            char tail[512];
            option_tail(tail, sizeof(tail), opt);
            fprintf(out, ".TP\n");
            if (opt->letter)
                fprintf(out, ".BR \\-%c \", \" ", opt->letter);
            else
                fprintf(out, ".BR ");
            fprintf(out, "\\-\\-");
            for (const char *p = opt->name; *p; p++)
                fprintf(out, *p == '-' ? "\\-" : "%c", *p);
            if (opt->meta)
                fprintf(out, " \" \\fI%s\\fP\"", opt->meta);
            fputc('\n', out);
            roff(out, tail);
        }
        if ((*c)->examples)
            for (const struct example *e = (*c)->examples; e->line; e++) {
                fprintf(out, ".PP\n.nf\n");
                roff(out, e->line);
                fprintf(out, ".fi\n.RS\n");
                roff(out, e->what);
                fprintf(out, ".RE\n");
            }
    }
    fprintf(out, ".SH EXIT STATUS\n");
    for (size_t i = 0; i < sizeof(exits) / sizeof(exits[0]); i++)
        fprintf(out, ".TP\n.B %s\n%s\n", exits[i][0], exits[i][1]);
    fprintf(out, ".SH ENVIRONMENT\n.TP\n.B MOONCAKE_CONFIG_PATH\nthe configuration file, where "
                 "\\-\\-config does not name one\n");
    fprintf(out, ".TP\n.B FERRY_PLUGIN_PATH\nwhere plugins are looked for first: absolute "
                 "directories, separated by colons\n");
}

void help_bash(FILE *out, const struct command *const *commands)
{
    fprintf(out, "# bash completion for ferry, made by 'ferry help --completion bash'\n"
                 "_ferry()\n{\n    local cur=${COMP_WORDS[COMP_CWORD]} "
                 "prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                 "    COMPREPLY=()\n    if [ \"$COMP_CWORD\" = 1 ]; then\n"
                 "        COMPREPLY=($(compgen -W \"");
    for (const struct command *const *c = commands; *c; c++)
        fprintf(out, "%s ", (*c)->name);
    fprintf(out, "--help --version\" -- \"$cur\"))\n        return\n    fi\n"
                 "    case \"${COMP_WORDS[1]} $prev\" in\n");
    for (const struct command *const *c = commands; *c; c++)
        for (const struct opt *opt = (*c)->opts; opt->name; opt++) {
            if (opt->type == OPT_FLAG)
                continue;
            fprintf(out, "    '%s --%s') ", (*c)->name, opt->name);
            if (opt->type == OPT_FILE)
                fprintf(out, "COMPREPLY=($(compgen -f -- \"$cur\"))");
            else if (opt->type == OPT_CHOICE) {
                fprintf(out, "COMPREPLY=($(compgen -W \"");
                for (const char *p = opt->choices; *p; p++)
                    fputc(*p == '|' ? ' ' : *p, out);
                fprintf(out, "\" -- \"$cur\"))");
            }
            fprintf(out, "\n        return ;;\n");
        }
    fprintf(out, "    esac\n    case \"${COMP_WORDS[1]}\" in\n");
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(out, "    %s) COMPREPLY=($(compgen -W \"%s", (*c)->name, (*c)->words);
        for (const struct opt *opt = (*c)->opts; opt->name; opt++)
            fprintf(out, " --%s", opt->name);
        fprintf(out, " --help\" -- \"$cur\")) ;;\n");
    }
    fprintf(out, "    esac\n}\ncomplete -F _ferry ferry\n");
}
