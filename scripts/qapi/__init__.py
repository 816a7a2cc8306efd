# SPDX-License-Identifier: GPL-2.0-or-later
"""Generator for the QAPI schema: see main.py for the parts and the order they run in."""
