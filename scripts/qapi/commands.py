# SPDX-License-Identifier: GPL-2.0-or-later
"""commands-M.h and commands-M.c: what a room implements, and how the monitor calls it."""

from . import ctext, names, types
from .ctext import CFile, HeaderFile


def parameter_name(member):
    """The name of @member as a parameter, which must differ from those of all functions."""
    return 'q_' + member.c_name if member.c_name in ('call', 'ret', 'error', 'sink', 'event_data') \
        else member.c_name


def parameters(members):
    """C parameters for @members, borrowed by the callee."""
    params = []
    for member in members:
        name = parameter_name(member)
        if member.has_flag:
            params.append(f'bool has_{name}')
        params.append(ctext.c_param(member.type) + name)
    return params


def returns_pointer(command):
    """Whether the result is the return value; other results go through a pointer."""
    return command.ret and (not command.gen or command.ret.is_pointer)


def result_type(command):
    """The C type of the result, ending in a blank or '*'."""
    return ctext.c_type(command.ret) if command.gen else 'QValue *'


def prototype(command, end):
    """The function that implements @command."""
    params = ['QapiCall *call']
    if command.arg and not command.gen:
        params.append('const QValue *args')
    elif command.boxed:
        params.append(f'const {command.arg.name} *arg')
    elif command.arg:
        params += parameters(command.arg.all_members())
    result = 'bool '
    if returns_pointer(command):
        result = result_type(command)
    elif command.ret:
        params.append(ctext.c_type(command.ret) + '*ret')
    return ctext.call(0, f'{result}co_fn qmp_{command.snake}', params + ['GError **error'], end)


def contract(command):
    """The comment above the prototype."""
    text = list(command.doc.body.text())
    if command.arg and command.arg.implicit:
        text.append('')
        for member in command.arg.declared:
            text += [f'- {member.c_name}: ' + ' '.join(member.doc)]
    for name in ('Returns', 'Errors'):
        section = command.doc.sections.get(name)
        if section and section.text():
            text += ['', f'{name}: ' + ' '.join(section.text())]
    return ctext.comment(text)


def _declare_arguments(command):
    if not command.arg or not command.gen:
        return []
    return [f'    g_autoptr({command.arg.name}) arg = NULL;']


def _read_arguments(command):
    if command.arg and not command.gen:
        return []
    if not command.arg:
        return ['    if (!qapi_arguments_none(args, error)) {', '        return;', '    }']
    return [f'    arg = {command.arg.snake}_from_qvalue(object, error);',
            '    if (!arg) {', '        return;', '    }']


def _call(command):
    args = ['call']
    if command.arg and not command.gen:
        args.append('args')
    elif command.boxed:
        args.append('arg')
    elif command.arg:
        for member in command.arg.all_members():
            if member.has_flag:
                args.append(f'arg->has_{member.c_name}')
            args.append(f'arg->{member.c_name}')
    if command.ret and not returns_pointer(command):
        args.append('&result')
    return args + ['error']


def marshal(command):
    """The function in the command table."""
    declarations, statements = [], []
    if command.arg and command.gen:
        declarations += ['    g_autoptr(QValue) object = args ? qvalue_ref(args) : '
                         'qvalue_object();']
    declarations += _declare_arguments(command)
    statements += _read_arguments(command)
    function = f'qmp_{command.snake}'
    if returns_pointer(command):
        declarations += [_result_declaration(command)]
        statements += ctext.call(4, f'result = {function}', _call(command), ';')
        statements += ['    if (!result) {', '        return;', '    }']
        if not command.gen or command.ret.name in ('any', 'null'):
            statements += ['    *ret = g_steal_pointer(&result);']
        else:
            statements += [f'    *ret = {ctext.write(command.ret, "result")};']
    else:
        if command.ret:
            declarations += [f'    {ctext.c_type(command.ret)}result;']
        statements += ctext.call(4, f'if (!{function}', _call(command), ') {')
        statements += ['        return;', '    }']
        value = ctext.write(command.ret, 'result') if command.ret else 'qvalue_object()'
        statements += [f'    *ret = {value};']
    return [*ctext.call(0, f'static void co_fn marshal_{command.snake}',
                        ['QapiCall *call', 'const QValue *args', 'QValue **ret',
                         'GError **error'], ''),
            '{', *declarations, *([''] if declarations else []), *statements, '}']


def _result_declaration(command):
    c_type = result_type(command)
    if c_type == 'char *':
        return '    g_autofree char *result = NULL;'
    return f'    g_autoptr({c_type[:-2]}) result = NULL;'


def argument_type(arg):
    """An implicit argument struct with what is needed to read it, all static."""
    return types.join([
        types.object_struct(arg, static=True),
        types.clear_object(arg, 'static '),
        [f'static void {arg.snake}_free({arg.name} *obj)', '{',
         f'    qapi_clear_{arg.snake}(obj);', '    g_free(obj);', '}',
         f'G_DEFINE_AUTOPTR_CLEANUP_FUNC({arg.name}, {arg.snake}_free)'],
        types.read_members(arg, 'static '), types.read_object(arg, 'static '),
        [f'static {arg.name} *{arg.snake}_from_qvalue(const QValue *value, GError **error)', '{',
         '    QapiInput in = qapi_input_root(value, false);',
         f'    {arg.name} *obj = NULL;', '',
         f'    return qapi_read_{arg.snake}(&in, &obj, error) ? obj : NULL;', '}']])


def flags(command):
    """The QapiCommandFlags of @command."""
    result = ['QAPI_COMMAND_ALLOW_OOB'] if command.allow_oob else []
    result += [f'QAPI_COMMAND_{f.name.upper()}' for f in command.features
               if f.name in ('deprecated', 'unstable')]
    return ' | '.join(result) or '0'


def commands_header(module):
    """commands-M.h."""
    header = HeaderFile(f'commands-{module.name}.h', [
        f'commands of the schema module {module.name}.', '',
        'The room that links commands-' + module.name + '.c implements the functions. Each runs as',
        'a coroutine in the main thread; arguments are checked and borrowed; on failure it returns',
        'false or NULL and fills error, on success the result is new and the caller\'s.'],
        ['aio/coroutine.h', f'qapi/types-{module.name}.h'])
    for command in module.of('command'):
        header.block(contract(command) + prototype(command, ';'))
    header.block(['/* The commands above, ended by a NULL name. */',
                  f'extern const QapiCommand qapi_commands_{names.snake(module.name)}[];'])
    return header


def commands_source(module):
    """commands-M.c."""
    source = CFile(f'commands-{module.name}.c', [f'marshalling of the commands of {module.name}.'])
    source.add(f'#include "qapi/commands-{module.name}.h"', '',
               f'#include "qapi/convert-{module.name}.h"')
    commands = module.of('command')
    for command in commands:
        if command.arg and command.arg.implicit and command.gen:
            source.block(argument_type(command.arg))
        source.block(marshal(command))
    entries = [f'    {{{ctext.string(c.name)}, marshal_{c.snake}, {flags(c)}}},' for c in commands]
    source.block([f'const QapiCommand qapi_commands_{names.snake(module.name)}[] = {{', *entries,
                  '    {NULL, NULL, 0},', '};'])
    return source


def generate(schema):
    """Yield (file name, text)."""
    for module in schema.modules:
        if not module.of('command'):
            continue
        for file in (commands_header(module), commands_source(module)):
            yield file.name, file.text()
