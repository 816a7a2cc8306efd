# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of wharfctl for bash: wharfctl itself knows what there is.

_wharfctl()
{
    local line words candidates word cut

    # COMP_WORDS is split at '=' and ':'; wharfctl wants the words as they are typed.
    line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    word=${words[-1]}

    COMPREPLY=()
    mapfile -t candidates < <("${words[0]/#\~/$HOME}" --complete "${words[@]:1}" 2> /dev/null)
    # What bash itself takes for the word begins behind the last '=' or ':', where those break words.
    cut=
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut=${word%"${word##*=}"}

    if [[ ${candidates[0]} == :files ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "${word#"$cut"}")
        return
    fi
    COMPREPLY=("${candidates[@]#"$cut"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}

complete -F _wharfctl wharfctl
