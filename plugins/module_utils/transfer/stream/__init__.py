# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The change stream: what a database writes is spooled on the mover's disk and applied to another one, in either direction."""
