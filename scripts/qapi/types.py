# SPDX-License-Identifier: GPL-2.0-or-later
"""types-M.h, types-M.c and convert-M.h: the types of a module and their conversion."""

from . import ctext
from .ctext import CFile, HeaderFile

JSON_NAMES = {'QVALUE_STRING': 'a string', 'QVALUE_BOOL': 'a boolean', 'QVALUE_INT': 'an integer',
              'QVALUE_DOUBLE': 'a number', 'QVALUE_NULL': 'null', 'QVALUE_OBJECT': 'an object',
              'QVALUE_ARRAY': 'an array'}
JSON_TYPES = {'string': 'STRING', 'boolean': 'BOOL', 'int': 'INT', 'number': 'DOUBLE',
              'null': 'NULL', 'object': 'OBJECT', 'array': 'ARRAY'}


def sorted_objects(types):
    """@types so that each comes after those it embeds."""
    done, result = set(), []

    def visit(type_):
        if type_ in done or type_ not in types:
            return
        done.add(type_)
        for branch in getattr(type_, 'branches', []):
            visit(branch.type)
        result.append(type_)

    for type_ in types:
        visit(type_)
    return result


def real_branches(type_):
    """The branches of a union that hold something."""
    return [b for b in type_.branches if not b.type.is_empty]


def alternate_constant(branch):
    """The QValueType that selects @branch."""
    json = branch.type.json_type if branch.type.meta == 'builtin' else \
        {'enum': 'string', 'object': 'object', 'array': 'array'}[branch.type.meta]
    return 'QVALUE_' + JSON_TYPES[json]


def has_content(branch):
    """Whether an alternate's branch has a C member."""
    return branch.type.name != 'null'


# -- Declarations

def enum_declaration(enum):
    """typedef enum and the number of its values."""
    lines = ctext.comment(enum.doc.body.text()) + ['typedef enum {']
    for value in enum.values:
        lines += ctext.comment(value.doc, 4)
        lines.append(f'    {enum.constant(value.name)},')
    lines += [f'}} {enum.name};', f'#define {enum.prefix}__COUNT {len(enum.values)}']
    return lines


def member_declaration(member, indent=4):
    """A member with its has_ flag and its comment."""
    pad = ' ' * indent
    lines = ctext.comment(member.doc, indent)
    if member.has_flag:
        lines.append(f'{pad}bool has_{member.c_name};')
    lines.append(f'{pad}{ctext.c_type(member.type)}{member.c_name};{of_elements(member.type)}')
    return lines


def of_elements(type_):
    """A comment that says what a list holds."""
    return f' /* of {ctext.c_type(type_.element).strip()} */' if type_.meta == 'array' else ''


def object_struct(obj, static=False):
    """The struct of @obj."""
    lines = ctext.comment(obj.doc.body.text()) if obj.doc else []
    lines.append(f'typedef struct {obj.name} {{' if static else f'struct {obj.name} {{')
    for member in obj.all_members():
        lines += member_declaration(member)
    branches = real_branches(obj)
    if branches:
        lines.append(f'    union {{ /* by {obj.tag.c_name} */')
        lines += [f'        {b.type.name} {b.c_name};' for b in branches]
        lines.append('    } u;')
    elif not obj.all_members():
        lines.append('    char empty; /* C wants a member */')
    lines.append(f'}} {obj.name};' if static else '};')
    return lines


def alternate_struct(alternate):
    """The struct of @alternate."""
    lines = ctext.comment(alternate.doc.body.text()) + [f'struct {alternate.name} {{']
    kinds = ', '.join(alternate_constant(b) for b in alternate.branches)
    lines.append(f'    QValueType type; /* {kinds} */')
    lines.append('    union {')
    for branch in filter(has_content, alternate.branches):
        lines += ctext.comment(branch.doc, 8)
        embedded = branch.type.meta == 'object'
        c_type = branch.type.name + ' ' if embedded else ctext.c_type(branch.type)
        lines.append(f'        {c_type}{branch.c_name};{of_elements(branch.type)}')
    lines += ['    } u;', '};']
    return lines


def public_functions(type_):
    """Prototypes of the functions of a struct, union or alternate."""
    name, snake = type_.name, type_.snake
    return [f'void {snake}_free({name} *obj);',
            f'{name} *{snake}_copy(const {name} *obj);',
            f'{name} *{snake}_from_qvalue(const QValue *value, GError **error);',
            f'{name} *{snake}_from_keyval(const QValue *value, GError **error);',
            f'QValue *{snake}_to_qvalue(const {name} *obj);',
            f'G_DEFINE_AUTOPTR_CLEANUP_FUNC({name}, {snake}_free)']


def convert_prototypes(type_):
    """What convert-M.h declares for @type_."""
    name, snake = type_.name, type_.snake
    if type_.meta == 'enum':
        return [f'bool qapi_read_{snake}(const QapiInput *in, {name} *out, GError **error);']
    lines = []
    if type_.meta == 'object':
        lines += ctext.call(0, f'bool qapi_read_members_{snake}',
                            ['QapiObject *object', f'{name} *obj', 'GError **error'], ';')
        lines.append(f'void qapi_write_members_{snake}(QValue *object, const {name} *obj);')
    lines += ctext.call(0, f'bool qapi_read_{snake}',
                        ['const QapiInput *in', f'{name} **out', 'GError **error'], ';')
    lines += [f'QValue *qapi_write_{snake}(const {name} *obj);',
              f'void qapi_clear_{snake}({name} *obj);',
              f'void qapi_copy_into_{snake}({name} *to, const {name} *from);']
    return lines


def list_prototypes(array):
    """What convert-M.h declares for the array type @array."""
    c_type, name = ctext.c_type(array), ctext.list_name(array)
    lines = ctext.call(0, f'bool qapi_read_{name}',
                       ['const QapiInput *in', f'{c_type}*out', 'GError **error'], ';')
    lines.append(f'QValue *qapi_write_{name}(const {c_type}list);')
    if array.element.is_pointer:
        lines.append(f'{c_type}qapi_copy_{name}(const {c_type}list);')
    return lines


# -- Definitions

def enum_functions(enum):
    """Names of @enum, to and from."""
    snake, name = enum.snake, enum.name
    table = f'{snake}_names'
    lines = [f'static const char *const {table}[] = {{']
    lines += [f'    [{enum.constant(v.name)}] = {ctext.string(v.name)},' for v in enum.values]
    lines += ['};', '',
              f'const char *{snake}_to_string({name} value)',
              '{',
              f'    g_assert((unsigned)value < {enum.prefix}__COUNT);',
              f'    return {table}[value];',
              '}', '',
              f'bool {snake}_from_string(const char *text, {name} *value)',
              '{',
              f'    for (unsigned i = 0; i < {enum.prefix}__COUNT; i++) {{',
              f'        if (strcmp({table}[i], text) == 0) {{',
              f'            *value = ({name})i;',
              '            return true;',
              '        }',
              '    }',
              '    return false;',
              '}', '']
    lines += [f'bool qapi_read_{snake}(const QapiInput *in, {name} *out, GError **error)',
              '{',
              '    unsigned i;', '',
              f'    if (!qapi_read_enum(in, {table}, {enum.prefix}__COUNT, &i, error)) {{',
              '        return false;',
              '    }',
              f'    *out = ({name})i;',
              '    return true;',
              '}']
    return lines


def _return_false_if(condition, indent=4):
    pad = ' ' * indent
    return [f'{pad}if ({condition}) {{', f'{pad}    return false;', f'{pad}}}']


def read_member(member):
    """Statements that read @member of the object being read."""
    target = f'obj->{member.c_name}'
    key = ctext.string(member.name)
    read = ctext.read(member, '&m', f'&{target}')
    if not member.optional:
        return _return_false_if(f'!qapi_object_require(object, {key}, &m, error) || !{read}')
    if member.has_default:
        return [f'    if (!qapi_object_get(object, {key}, &m)) {{',
                f'        {target} = {ctext.literal(member)};',
                f'    }} else if (!{read}) {{',
                '        return false;',
                '    }']
    if not member.has_flag:
        return _return_false_if(f'qapi_object_get(object, {key}, &m) && !{read}')
    return [f'    if (qapi_object_get(object, {key}, &m)) {{',
            f'        if (!{read}) {{',
            '            return false;',
            '        }',
            f'        obj->has_{member.c_name} = true;',
            '    }']


def read_members(obj, static=''):
    """qapi_read_members_X()."""
    lines = ctext.call(0, f'{static}bool qapi_read_members_{obj.snake}',
                       ['QapiObject *object', f'{obj.name} *obj', 'GError **error'], '')
    lines.append('{')
    members = obj.all_members()
    if members:
        lines += ['    QapiInput m;', '']
    for member in members:
        lines += read_member(member)
    branches = real_branches(obj)
    if not branches:
        return lines + ['    return true;', '}']
    lines.append(f'    switch (obj->{obj.tag.c_name}) {{')
    for branch in branches:
        lines += [f'    case {obj.tag.type.constant(branch.name)}:',
                  f'        return qapi_read_members_{branch.type.snake}'
                  f'(object, &obj->u.{branch.c_name}, error);']
    return lines + ['    default:', '        return true;', '    }', '}']


def _new_object(name):
    line = f'    g_autoptr({name}) obj = g_new0({name}, 1);'
    return [line] if len(line) <= 100 else [f'    g_autoptr({name}) obj =', f'        g_new0({name}, 1);']


def read_object(obj, static=''):
    """qapi_read_X()."""
    return ctext.call(0, f'{static}bool qapi_read_{obj.snake}',
                      ['const QapiInput *in', f'{obj.name} **out', 'GError **error'], '') + [
        '{',
        *_new_object(obj.name),
        '    g_auto(QapiObject) object = {0};', '',
        *_return_false_if('!qapi_object_begin(&object, in, error) || '
                          f'!qapi_read_members_{obj.snake}(&object, obj, error) || '
                          '!qapi_object_end(&object, error)'),
        '    *out = g_steal_pointer(&obj);',
        '    return true;',
        '}']


def _switch_branches(obj, subject, statement):
    """A switch over the tag of @subject with what @statement makes of each branch."""
    branches = real_branches(obj)
    if not branches:
        return []
    lines = [f'    switch ({subject}->{obj.tag.c_name}) {{']
    for branch in branches:
        lines += [f'    case {obj.tag.type.constant(branch.name)}:',
                  f'        {statement(branch)};', '        break;']
    return lines + ['    default:', '        break;', '    }']


def clear_object(obj, static=''):
    """qapi_clear_X()."""
    lines = [f'{static}void qapi_clear_{obj.snake}({obj.name} *obj)', '{']
    for member in obj.all_members():
        if member.type.is_pointer:
            lines.append(f'    g_clear_pointer(&obj->{member.c_name}, '
                         f'{ctext.destroy(member.type)});')
    lines += _switch_branches(
        obj, 'obj', lambda b: f'qapi_clear_{b.type.snake}(&obj->u.{b.c_name})')
    return lines + ['}']


def copy_object(obj):
    """qapi_copy_into_X()."""
    lines = [f'void qapi_copy_into_{obj.snake}({obj.name} *to, const {obj.name} *from)', '{',
             '    *to = *from;']
    for member in obj.all_members():
        if member.type.is_pointer:
            source = ctext.copy(member.type, f'from->{member.c_name}')
            lines.append(f'    to->{member.c_name} = {source};')
    lines += _switch_branches(
        obj, 'from',
        lambda b: f'qapi_copy_into_{b.type.snake}(&to->u.{b.c_name}, &from->u.{b.c_name})')
    return lines + ['}']


def write_members(obj):
    """qapi_write_members_X()."""
    lines = [f'void qapi_write_members_{obj.snake}(QValue *object, const {obj.name} *obj)', '{']
    for member in obj.all_members():
        lines += write_member(member, 'object', f'obj->{member.c_name}',
                              f'obj->has_{member.c_name}')
    lines += _switch_branches(
        obj, 'obj', lambda b: f'qapi_write_members_{b.type.snake}(object, &obj->u.{b.c_name})')
    return lines + ['}']


def write_member(member, target, source, flag):
    """Statements that set @member of the QValue @target from @source."""
    statement = ctext.call(0, 'qvalue_object_set',
                           [target, ctext.string(member.name), ctext.write(member.type, source)],
                           ';')
    condition = flag if member.has_flag else source if member.optional and \
        member.type.is_pointer else None
    if not condition:
        return ['    ' + line for line in statement]
    return [f'    if ({condition}) {{'] + ['        ' + line for line in statement] + ['    }']


def wrappers(type_):
    """free, copy and the public conversions, all alike for structs, unions and alternates."""
    name, snake = type_.name, type_.snake
    lines = [f'void {snake}_free({name} *obj)', '{',
             '    if (obj) {', f'        qapi_clear_{snake}(obj);', '        g_free(obj);', '    }',
             '}', '',
             f'{name} *{snake}_copy(const {name} *obj)', '{',
             f'    {name} *copy;', '',
             '    if (!obj) {', '        return NULL;', '    }',
             f'    copy = g_new0({name}, 1);',
             f'    qapi_copy_into_{snake}(copy, obj);',
             '    return copy;', '}']
    for suffix, keyval in (('qvalue', 'false'), ('keyval', 'true')):
        lines += ['', f'{name} *{snake}_from_{suffix}(const QValue *value, GError **error)', '{',
                  f'    QapiInput in = qapi_input_root(value, {keyval});',
                  f'    {name} *obj = NULL;', '',
                  f'    return qapi_read_{snake}(&in, &obj, error) ? obj : NULL;', '}']
    return lines + ['', f'QValue *{snake}_to_qvalue(const {name} *obj)', '{',
                    f'    return qapi_write_{snake}(obj);', '}']


def object_functions(obj):
    """Everything that types-M.c defines for @obj."""
    pieces = [clear_object(obj), copy_object(obj), read_members(obj), read_object(obj),
              write_members(obj),
              [f'QValue *qapi_write_{obj.snake}(const {obj.name} *obj)', '{',
               '    QValue *object = qvalue_object();', '',
               f'    qapi_write_members_{obj.snake}(object, obj);',
               '    return object;', '}'],
              wrappers(obj)]
    return join(pieces)


def join(pieces):
    """Pieces with a blank line between them."""
    lines = []
    for piece in filter(None, pieces):
        lines += ([''] if lines else []) + piece
    return lines


def _alternate_switch(alternate, subject, make, wanted):
    lines = [f'    switch ({subject}->type) {{']
    for branch in alternate.branches:
        if wanted(branch):
            lines += [f'    case {alternate_constant(branch)}:', f'        {make(branch)};',
                      '        break;']
    return lines + ['    default:', '        break;', '    }']


def alternate_clear(alternate):
    """qapi_clear_X() of an alternate."""
    def clear(branch):
        if branch.type.meta == 'object':
            return f'qapi_clear_{branch.type.snake}(&obj->u.{branch.c_name})'
        return f'g_clear_pointer(&obj->u.{branch.c_name}, {ctext.destroy(branch.type)})'

    return [f'void qapi_clear_{alternate.snake}({alternate.name} *obj)', '{',
            *_alternate_switch(alternate, 'obj', clear,
                               lambda b: b.type.is_pointer and has_content(b)),
            '    obj->type = QVALUE_NULL;', '}']


def alternate_copy(alternate):
    """qapi_copy_into_X() of an alternate."""
    def copy(branch):
        target, source = f'to->u.{branch.c_name}', f'from->u.{branch.c_name}'
        if branch.type.meta == 'object':
            return f'qapi_copy_into_{branch.type.snake}(&{target}, &{source})'
        return f'{target} = {ctext.copy(branch.type, source)}'

    return [f'void qapi_copy_into_{alternate.snake}({alternate.name} *to, '
            f'const {alternate.name} *from)', '{', '    *to = *from;',
            *_alternate_switch(alternate, 'from', copy,
                               lambda b: b.type.is_pointer and has_content(b)), '}']


def _read_branch(branch):
    target = f'&obj->u.{branch.c_name}'
    if branch.type.meta == 'object':
        return [f'    case {alternate_constant(branch)}: {{',
                '        g_auto(QapiObject) object = {0};', '',
                *_return_false_if(
                    '!qapi_object_begin(&object, in, error) || '
                    f'!qapi_read_members_{branch.type.snake}(&object, {target}, error) || '
                    '!qapi_object_end(&object, error)', 8),
                '        break;', '    }']
    lines = [f'    case {alternate_constant(branch)}:']
    if has_content(branch):
        lines += _return_false_if('!' + ctext.read(branch, 'in', target), 8)
    return lines + ['        break;']


def alternate_read(alternate):
    """qapi_read_X() of an alternate."""
    kinds = [JSON_NAMES[alternate_constant(b)] for b in alternate.branches]
    expected = ' or '.join(filter(None, (', '.join(kinds[:-1]), kinds[-1])))
    bits = ' | '.join(f'1u << {alternate_constant(b)}' for b in alternate.branches)
    lines = ctext.call(0, f'bool qapi_read_{alternate.snake}',
                       ['const QapiInput *in', f'{alternate.name} **out', 'GError **error'], '')
    lines += ['{', *_new_object(alternate.name), '',
              f'    obj->type = qapi_alternate_type(in, {bits});',
              '    switch (obj->type) {']
    for branch in alternate.branches:
        lines += _read_branch(branch)
    return lines + ['    default:', '        obj->type = QVALUE_NULL;',
                    f'        qapi_input_refuse(in, {ctext.string(expected)}, error);',
                    '        return false;', '    }',
                    '    *out = g_steal_pointer(&obj);', '    return true;', '}']


def alternate_write(alternate):
    """qapi_write_X() of an alternate."""
    lines = [f'QValue *qapi_write_{alternate.snake}(const {alternate.name} *obj)', '{',
             '    switch (obj->type) {']
    for branch in alternate.branches:
        source = f'obj->u.{branch.c_name}'
        source = '&' + source if branch.type.meta == 'object' else source
        value = ctext.write(branch.type, source) if has_content(branch) else 'qvalue_null()'
        lines += [f'    case {alternate_constant(branch)}:', f'        return {value};']
    return lines + ['    default:', '        g_assert_not_reached();', '    }', '}']


def alternate_functions(alternate):
    """Everything that types-M.c defines for @alternate."""
    return join([alternate_clear(alternate), alternate_copy(alternate), alternate_read(alternate),
                 alternate_write(alternate), wrappers(alternate)])


def _scalar_list(array):
    name, element = ctext.list_name(array), array.element
    c_type = element.name
    return [f'bool qapi_read_{name}(const QapiInput *in, GArray **out, GError **error)', '{',
            f'    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof({c_type}));',
            '    gsize length;', '',
            '    if (!qapi_array_begin(in, &length, error)) {', '        return false;', '    }',
            '    for (gsize i = 0; i < length; i++) {',
            '        QapiInput m = qapi_array_element(in, i);',
            f'        {c_type} element;', '',
            f'        if (!qapi_read_{element.snake}(&m, &element, error)) {{',
            '            return false;', '        }',
            '        g_array_append_val(list, element);', '    }',
            '    *out = g_steal_pointer(&list);', '    return true;', '}', '',
            f'QValue *qapi_write_{name}(const GArray *list)', '{',
            '    QValue *array = qvalue_array();', '',
            '    for (guint i = 0; i < list->len; i++) {',
            f'        {c_type} element = g_array_index(list, {c_type}, i);', '',
            f'        qvalue_array_append(array, {ctext.write(element, "element")});', '    }',
            '    return array;', '}']


def _pointer_list(array):
    name, element = ctext.list_name(array), array.element
    return [f'GPtrArray *{name}_new(void)', '{',
            f'    return g_ptr_array_new_with_free_func((GDestroyNotify){element.snake}_free);',
            '}', '',
            f'GPtrArray *qapi_copy_{name}(const GPtrArray *list)', '{',
            '    GPtrArray *copy;', '',
            '    if (!list) {', '        return NULL;', '    }',
            f'    copy = {name}_new();',
            '    for (guint i = 0; i < list->len; i++) {',
            f'        g_ptr_array_add(copy, {element.snake}_copy(g_ptr_array_index(list, i)));',
            '    }', '    return copy;', '}', '',
            f'bool qapi_read_{name}(const QapiInput *in, GPtrArray **out, GError **error)', '{',
            f'    g_autoptr(GPtrArray) list = {name}_new();',
            '    gsize length;', '',
            '    if (!qapi_array_begin(in, &length, error)) {', '        return false;', '    }',
            '    for (gsize i = 0; i < length; i++) {',
            '        QapiInput m = qapi_array_element(in, i);',
            f'        {element.name} *element;', '',
            f'        if (!qapi_read_{element.snake}(&m, &element, error)) {{',
            '            return false;', '        }',
            '        g_ptr_array_add(list, element);', '    }',
            '    *out = g_steal_pointer(&list);', '    return true;', '}', '',
            f'QValue *qapi_write_{name}(const GPtrArray *list)', '{',
            '    QValue *array = qvalue_array();', '',
            '    for (guint i = 0; i < list->len; i++) {',
            f'        qvalue_array_append(array, qapi_write_{element.snake}'
            '(g_ptr_array_index(list, i)));',
            '    }', '    return array;', '}']


def list_functions(array):
    """Everything that types-M.c defines for the array type @array."""
    return _pointer_list(array) if array.element.is_pointer else _scalar_list(array)


# -- Files

def module_arrays(schema, module):
    """The array types whose elements @module defines."""
    return [a for a in schema.arrays.values() if a.element.module is module]


def types_header(schema, module):
    """types-M.h."""
    includes = ['qapi/qapi.h'] + [f'qapi/types-{m.name}.h' for m in module.includes]
    header = HeaderFile(f'types-{module.name}.h', [
        f'types of the schema module {module.name}.', '',
        'Each struct, union and alternate X has x_free(), which takes NULL, too; x_copy(), deep;',
        'x_from_qvalue(), strict about JSON types; x_from_keyval(), where a string from key=value',
        'options may stand for any scalar; x_to_qvalue(). Optional scalars have a has_NAME unless',
        'the schema has a default; optional pointers are NULL.'], includes)
    enums = module.of('enum')
    objects = sorted_objects(module.of('object', 'alternate'))
    for enum in enums:
        header.block(enum_declaration(enum))
        header.block([f'const char *{enum.snake}_to_string({enum.name} value);',
                      f'bool {enum.snake}_from_string(const char *text, {enum.name} *value);'])
    header.block([f'typedef struct {o.name} {o.name};' for o in objects])
    for obj in objects:
        header.block(object_struct(obj) if obj.meta == 'object' else alternate_struct(obj))
        header.block(public_functions(obj))
    arrays = [a for a in module_arrays(schema, module) if a.element.is_pointer]
    header.block(arrays and ['/* Lists that own their elements. */'] +
                 [f'GPtrArray *{ctext.list_name(a)}_new(void);' for a in arrays])
    return header


def convert_header(schema, module):
    """convert-M.h."""
    header = HeaderFile(f'convert-{module.name}.h', [
        f'conversion of the types of {module.name}, for generated code only.'],
        [f'qapi/types-{module.name}.h'] + [f'qapi/convert-{m.name}.h' for m in module.includes])
    for type_ in module.of('enum', 'object', 'alternate'):
        header.block(convert_prototypes(type_))
    for array in module_arrays(schema, module):
        header.block(list_prototypes(array))
    return header


def types_source(schema, module):
    """types-M.c."""
    source = CFile(f'types-{module.name}.c', [f'types of the schema module {module.name}.'])
    source.add(f'#include "qapi/types-{module.name}.h"', '', '#include <string.h>', '',
               f'#include "qapi/convert-{module.name}.h"')
    for enum in module.of('enum'):
        source.block(enum_functions(enum))
    for obj in module.of('object'):
        source.block(object_functions(obj))
    for alternate in module.of('alternate'):
        source.block(alternate_functions(alternate))
    for array in module_arrays(schema, module):
        source.block(list_functions(array))
    return source


def generate(schema):
    """Yield (file name, text)."""
    for module in schema.modules:
        if not module.of('enum', 'object', 'alternate'):
            continue
        for file in (types_header(schema, module), convert_header(schema, module),
                     types_source(schema, module)):
            yield file.name, file.text()
