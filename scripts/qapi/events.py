# SPDX-License-Identifier: GPL-2.0-or-later
"""events-M.h and events-M.c: functions that emit events."""

from . import ctext, types
from .commands import parameter_name, parameters
from .ctext import CFile, HeaderFile


def prototype(event, end):
    """The function that emits @event."""
    params = ['const QapiEventSink *sink']
    if event.boxed:
        params.append(f'const {event.arg.name} *arg')
    elif event.arg:
        params += parameters(event.arg.all_members())
    return ctext.call(0, f'void qapi_event_{event.snake}', params, end)


def contract(event):
    """The comment above the prototype."""
    text = list(event.doc.body.text())
    if event.arg and event.arg.implicit:
        text.append('')
        text += [f'- {m.c_name}: ' + ' '.join(m.doc) for m in event.arg.declared]
    return ctext.comment(text)


def emitter(event):
    """The definition of that function."""
    lines = prototype(event, '') + ['{']
    if not event.arg:
        return lines + [f'    qapi_event_emit(sink, {ctext.string(event.name)}, NULL);', '}']
    if event.boxed:
        lines += [f'    g_autoptr(QValue) event_data = qapi_write_{event.arg.snake}(arg);', '']
    else:
        lines += ['    g_autoptr(QValue) event_data = qvalue_object();', '']
        for member in event.arg.all_members():
            name = parameter_name(member)
            lines += types.write_member(member, 'event_data', name, f'has_{name}')
    return lines + [f'    qapi_event_emit(sink, {ctext.string(event.name)}, event_data);', '}']


def events_header(module):
    """events-M.h."""
    header = HeaderFile(f'events-{module.name}.h', [
        f'events of the schema module {module.name}.', '',
        'Main thread only. Arguments are borrowed; a NULL sink swallows the event.'],
        [f'qapi/types-{module.name}.h'])
    for event in module.of('event'):
        header.block(contract(event) + prototype(event, ';'))
    return header


def events_source(module):
    """events-M.c."""
    source = CFile(f'events-{module.name}.c', [f'events of the schema module {module.name}.'])
    source.add(f'#include "qapi/events-{module.name}.h"', '',
               f'#include "qapi/convert-{module.name}.h"')
    for event in module.of('event'):
        source.block(emitter(event))
    return source


def generate(schema):
    """Yield (file name, text)."""
    for module in schema.modules:
        if not module.of('event'):
            continue
        for file in (events_header(module), events_source(module)):
            yield file.name, file.text()
