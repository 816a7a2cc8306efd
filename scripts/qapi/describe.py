# SPDX-License-Identifier: GPL-2.0-or-later
"""Documentation meets definitions: everything must be described, and everything described exist."""

from .error import SchemaError


def attach_doc(definition, doc):
    """Give @doc to @definition and its parts; refuse what is missing or describes nothing."""
    definition.doc = doc
    if not doc.body.text():
        raise SchemaError(doc.info, f"'{definition.name}' is not described")
    documented = _documented(definition)
    for item in documented:
        section = doc.members.pop(item.name, None)
        if not section or not section.text():
            raise SchemaError(item.info, f"'{item.name}' of '{definition.name}' is not "
                                         'documented')
        item.doc = section.text()
        _check_default(definition, item, section)
    for name, section in doc.members.items():
        raise SchemaError(section.info, f"'{definition.name}' has no '{name}'")
    _attach_features(definition, documented, doc)
    _check_sections(definition, doc)


def _check_default(definition, item, section):
    if getattr(item, 'has_default', False) and '(default:' in ' '.join(item.doc):
        raise SchemaError(section.info, f"the schema itself tells the default of '{item.name}' of "
                                        f"'{definition.name}'; leave it out of the text")


def _documented(definition):
    """What of @definition needs a description of its own."""
    if definition.meta == 'enum':
        return definition.all_values
    if definition.meta == 'object':
        return definition.declared
    if definition.meta == 'alternate':
        return definition.branches
    if definition.arg and definition.arg.implicit:
        return definition.arg.declared
    return []


def _attach_features(definition, documented, doc):
    wanted = list(definition.features)
    for item in documented:
        wanted += getattr(item, 'features', [])
    for feature in wanted:
        section = doc.features.get(feature.name)
        if not section or not section.text():
            raise SchemaError(feature.info, f"feature '{feature.name}' of "
                                            f"'{definition.name}' is not documented")
        feature.doc = section.text()
    for name, section in doc.features.items():
        if not any(f.name == name for f in wanted):
            raise SchemaError(section.info, f"'{definition.name}' has no feature '{name}'")


def _check_sections(definition, doc):
    ret = getattr(definition, 'ret', None)
    if 'Returns' in doc.sections and not ret:
        raise SchemaError(doc.sections['Returns'].info,
                          f"'{definition.name}' returns nothing")
    if ret and not (doc.sections.get('Returns') and doc.sections['Returns'].text()):
        raise SchemaError(doc.info, f"'{definition.name}' lacks 'Returns:'")
    if 'Errors' in doc.sections and definition.meta != 'command':
        raise SchemaError(doc.sections['Errors'].info, "'Errors:' is for commands")
    if not (doc.sections.get('Since') and doc.sections['Since'].text()):
        raise SchemaError(doc.info, f"'{definition.name}' lacks 'Since:'")
