/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/commands.h - the short forms, each defined in the cmd-*.c file of its name.
 */
#ifndef WHARF_CTL_COMMANDS_H
#define WHARF_CTL_COMMANDS_H

#include "ctl/ctl.h"

extern const CtlCommand ctl_command_mount;
extern const CtlCommand ctl_command_umount;
extern const CtlCommand ctl_command_create;
extern const CtlCommand ctl_command_info;
extern const CtlCommand ctl_command_snapshot;
extern const CtlCommand ctl_command_export;
extern const CtlCommand ctl_command_rm;
extern const CtlCommand ctl_command_ls;
extern const CtlCommand ctl_command_graph;
extern const CtlCommand ctl_command_events;
extern const CtlCommand ctl_command_check;
extern const CtlCommand ctl_command_help;

#endif
