#!/bin/sh
# Train the zoo: a generalist on all domains, then an expert for each from it. Every step goes on where it stopped.
#
#   zoo/build.sh DATA WORK [--device cuda]
#
# DATA holds a folder per domain with train.jsonl.gz and test.jsonl.gz; WORK keeps answers and features (3.5 KB a token).
# Files are JSON lines with `prompt`; a line that is none is refused by its number. EXPERTS are the domains that get one,
# ANSWERS per domain, STEPS of the generalist and EXPERT_STEPS of each expert may be set in the environment.
set -eu
data=$1 work=$2
shift 2
here=$(dirname "$0")
paceline=${PACELINE:-$here/../.venv/bin/paceline}
common="--prompts $data/*/train.jsonl.gz --test $data/*/test.jsonl.gz --data $work --answers ${ANSWERS:-450} --levels 3"

source_of() {
    case $1 in
    math) echo "GSM8K (MIT)" ;;
    code) echo "TheAlgorithms, keon, more-itertools (MIT), networkx, boltons, toolz (BSD-3), MBPP (CC BY 4.0)" ;;
    sql) echo "Spider (CC BY-SA 4.0), prompts only" ;;
    translation) echo "Python documentation, English to Spanish (CC0)" ;;
    medical) echo "MedQuAD (CC BY 4.0), PubMedQA (MIT)" ;;
    legal) echo "CUAD (CC BY 4.0)" ;;
    finance) echo "Earnings-21/22 (CC BY-SA 4.0), TAT-QA (CC BY 4.0), prompts only" ;;
    summarization) echo "SciTLDR (Apache-2.0), QMSum (MIT)" ;;
    chat) echo "Schema-guided dialogue (CC BY-SA 4.0), GPTeacher roleplay (MIT), prompts only" ;;
    *) echo "$1" ;;
    esac
}

domains=$(cd "$data" && ls)
all=
for domain in $domains; do all="$all; $domain: $(source_of "$domain")"; done
# shellcheck disable=SC2086  # file patterns and options are meant to be split
"$paceline" train "$here/generalist" $common --steps "${STEPS:-1000}" --source "${all#; }" "$@"
for domain in ${EXPERTS:-math code sql translation medical legal finance}; do
    # shellcheck disable=SC2086
    "$paceline" train "$here/$domain" $common --domain "$domain" --expert-of "$here/generalist" \
        --steps "${EXPERT_STEPS:-150}" --learning-rate 5e-4 --source "$(source_of "$domain")" "$@"
done
