#!/usr/bin/env bash
# Build the archive, install it into a folder of its own, and run it from there: the checkout must not be needed.
set -euo pipefail
root=$PWD
out=$root/.cache/build
rm -rf "$out"; mkdir -p "$out"
# Away from the checkout: neither its ansible.cfg nor its own place on the collection path may help.
cd "$out"
unset ANSIBLE_CONFIG PYTHONPATH
export ANSIBLE_COLLECTIONS_PATH=$out/installed
ansible-galaxy collection build "$root" --output-path "$out" >build.log 2>&1 || { cat build.log; exit 1; }
archive=$(ls cutover-hetzner-*.tar.gz)
ansible-galaxy collection install "$archive" -p "$out/installed" >install.log 2>&1 || { cat install.log; exit 1; }
echo "documentation of every module and role:"
mapfile -t modules < <(ansible-doc -l cutover.hetzner --type module | awk '{print $1}')
[ ${#modules[@]} -ge 10 ] || { echo "only ${#modules[@]} modules in the archive"; exit 1; }
for module in "${modules[@]}"; do ansible-doc --type module "$module" >/dev/null; done
ansible-doc --type role -l cutover.hetzner | grep -oE '^cutover[^: ]+'
for playbook in migrate rollback finalize phase0_database phase1_prepare phase2_setup phase3_deploy phase4_validate phase5_cutover; do
  ansible-playbook "cutover.hetzner.$playbook" --syntax-check -i localhost, >/dev/null 2>>syntax.log || { cat syntax.log; exit 1; }
done
echo "archive $(basename "$archive"): ${#modules[@]} modules, playbooks run from the installed collection"
