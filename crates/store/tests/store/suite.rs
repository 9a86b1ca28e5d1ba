//! The suite: one list of cases, that both databases run.

use crate::help::Place;

macro_rules! cases {
    ($($file:ident { $($case:ident,)* })*) => {
        mod sqlite {
            $(mod $file {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$file::$case(&super::super::Place::sqlite()).await;
                })*
            })*
        }
        mod postgres {
            $(mod $file {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::$file::$case(&super::super::Place::postgres().await).await;
                })*
            })*
        }
    };
}

cases! {
    admission {
        of_fifty_concurrent_reservations_of_one_wallet_one_is_granted,
        of_fifty_at_once_as_many_are_granted_as_the_tier_allows,
        however_many_ask_at_once_together_they_get_no_more_than_the_tier_gives,
        a_slot_is_free_again_when_its_run_has_ended_and_a_running_pod_is_started_once,
        where_fewer_are_allowed_than_run_those_go_on_and_no_further_one_comes,
        who_asks_without_a_message_is_let_in_and_its_retry_has_the_first_answer,
        a_reservation_is_read_as_it_was_written,
        a_message_works_once_also_across_a_restart_and_whatever_it_asked,
        a_reservation_that_is_refused_spends_its_message_too,
        a_retry_with_its_key_gets_the_first_answer_as_it_is_now,
        where_no_new_run_may_start_a_retry_has_its_answer_all_the_same,
        a_key_stands_for_its_answer_for_a_day_and_no_longer,
        an_id_that_is_taken_is_said_so_and_takes_no_slot,
    }
    apikeys {
        a_key_is_read_as_it_was_kept_until_its_own_wallet_revokes_it,
        of_fifty_keys_made_at_once_a_wallet_gets_as_many_as_it_may,
        a_key_that_is_over_makes_room_for_another,
        a_retry_has_one_key_and_not_two,
        the_last_use_that_was_noted_is_shown_and_never_goes_back,
        a_key_that_is_long_over_is_forgotten,
    }
    volumes {
        a_volume_is_read_as_it_was_written_and_by_its_owner_alone,
        a_wallet_has_no_more_volumes_and_no_more_of_the_disk_than_it_may,
        of_fifty_volumes_asked_for_at_once_a_wallet_gets_as_many_as_it_may,
        a_volume_has_one_writer_and_is_free_when_that_has_ended,
        of_fifty_at_once_one_run_gets_the_volume,
        a_run_gets_its_own_wallets_volumes_that_are_ready_on_one_node,
        a_volume_that_a_run_has_is_neither_removed_nor_grown,
        a_removed_pod_leaves_its_volumes_to_the_next,
        no_wallet_and_no_node_holds_up_what_is_begun_for_others,
    }
    billing {
        a_running_stretch_counts_up_to_now_and_a_boot_costs_nothing,
        marks_sent_again_or_overlapping_count_once_and_gaps_are_told,
        a_node_may_not_bill_an_agent_of_another,
        an_ended_agent_runs_no_further_and_a_late_mark_makes_its_bill_exact,
        a_node_that_lost_its_journal_bills_until_it_was_last_heard,
        clocks_at_the_end_of_time_do_not_break_the_bill,
        every_mark_counts_once_across_replays_overlaps_and_reopenings,
    }
    mounts {
        a_stopped_pod_is_given_volumes_for_its_next_runs_and_loses_them_again,
        a_volume_may_be_meant_for_several_and_the_first_that_starts_has_it,
        a_volume_goes_to_no_pod_whose_data_or_volumes_are_elsewhere_and_one_that_is_gone_is_let_go,
    }
    copies {
        no_run_gets_a_volume_while_it_is_copied_and_its_snapshot_is_its_owners,
        what_a_node_refuses_leaves_the_volume_free_and_says_why,
        snapshots_count_against_the_quota_and_the_bill_until_they_are_removed,
        of_fifty_at_once_one_copies_the_volume,
        no_wallet_holds_up_the_copies_of_others,
    }
    meters {
        a_volume_counts_by_its_size_while_it_is_there_and_each_mark_once,
        a_disk_counts_no_longer_than_its_node_is_heard_of_and_not_while_that_was_down,
        nobody_pays_for_a_volume_that_was_removed_whatever_its_node_still_holds,
        a_node_may_not_charge_for_disks_of_another_or_of_nobody,
        what_is_kept_of_a_pod_counts_until_its_next_run_or_its_removal,
        nobody_pays_for_a_disk_that_could_not_be_made,
        what_an_earlier_node_kept_of_a_pod_counts_until_it_is_gone_from_there,
        a_clock_that_was_wrong_until_somebody_set_it_makes_nobody_pay_for_years,
    }
    images {
        an_upload_becomes_an_image_and_both_are_read_as_they_were_written,
        the_same_archive_goes_on_with_its_upload_and_is_not_uploaded_twice,
        a_new_image_takes_the_name_of_the_old_one_which_goes,
        a_wallets_images_take_no_more_than_it_may_and_another_ones_nothing_of_that,
        uploads_that_failed_are_counted_as_images_until_they_are_brought_again,
        of_fifty_uploads_begun_at_once_as_many_are_as_may_be,
        of_uploads_that_end_at_once_under_one_name_one_is_there_and_the_others_go,
        tags_share_what_their_node_has_until_the_last_of_them_goes,
        tags_are_counted,
        what_is_published_is_everybodys_until_it_is_taken_back_or_replaced,
        what_is_over_on_a_node_that_is_away_holds_up_no_other_nodes,
        an_upload_whose_time_is_over_or_that_is_given_up_goes_and_is_no_image_any_more,
    }
    index {
        a_vaults_ledger_equals_the_fold_over_its_events_after_every_block_and_every_way_back,
        a_batch_that_cannot_be_changes_nothing,
        a_batch_that_was_posted_before_or_follows_another_block_is_refused,
        the_ledgers_of_two_factories_and_two_chains_are_apart,
        the_ledger_does_what_every_ledger_must,
    }
    finance {
        the_newest_link_of_a_holder_counts_and_an_older_one_is_not_replayed,
        prices_are_set_whole,
        a_vault_that_is_deployed_stays_so_whatever_a_slower_writer_believes,
        a_consent_that_was_given_is_not_lost_to_a_slower_writer_without_one,
        a_vault_that_could_not_go_on_comes_after_all_others,
    }
    keys {
        of_fifty_who_keep_a_key_at_once_all_have_the_same,
        a_key_that_is_kept_is_there_after_a_restart_and_never_replaced,
        a_removed_pod_leaves_no_key_and_one_of_the_same_id_has_none,
        fifty_keepers_and_a_removal_at_once_leave_no_key_behind,
        of_gateways_that_begin_at_once_with_files_of_their_own_one_makes_a_key,
        fifty_gateways_that_begin_at_once_with_one_sealing_key_have_the_same_keys,
        another_sealing_key_or_none_is_refused_by_name_and_nothing_is_made,
        no_key_opens_in_another_ones_row,
        a_key_in_the_former_default_place_is_found_and_no_second_one_made,
        a_default_key_is_made_in_its_own_place_where_nothing_is_sealed,
        all_keys_are_sealed_anew_under_another_key_or_none,
        lost_keys_are_set_aside_and_forgotten_and_the_gateway_begins_again,
        a_former_key_that_cannot_be_read_is_not_lost_and_one_beside_a_new_key_is_found,
        keys_that_were_set_aside_come_back_to_pods_that_are_there_and_have_none,
        a_key_that_was_set_aside_is_no_later_pods_of_that_id_whatever_clocks_said,
        a_removal_is_before_or_after_the_first_sealing_whatever_clocks_said,
        the_key_of_the_tokens_comes_back_where_that_is_asked_for,
        keys_under_another_sealing_key_are_tested_with_it_one_by_one,
        what_was_erased_stays_so_when_lost_keys_are_forgotten,
        no_vault_is_drafted_or_paid_for_any_more_whose_key_is_forgotten,
        a_key_that_is_sealed_with_the_key_of_before_is_not_kept,
    }
    life {
        a_life_is_kept_step_by_step_and_told_to_whoever_listens,
        a_wallet_is_busy_until_the_grave_and_free_from_then_on,
        a_run_that_is_abandoned_is_on_no_node,
        a_step_that_life_does_not_know_is_refused_and_changes_nothing,
        a_stop_during_a_failure_does_not_rewrite_its_end_unless_the_data_is_to_go,
        a_flapping_agent_forgets_its_oldest_changes_and_no_more,
        what_was_seen_and_how_the_balance_stands_are_kept,
        a_run_whose_time_is_over_is_stopped_and_one_that_was_given_more_meanwhile_is_not,
        an_ephemeral_run_whose_time_is_over_is_removed,
        time_is_counted_on_over_restarts_and_machines_and_never_back,
    }
    outbox {
        a_key_and_a_nonce_are_taken_once_by_each_account,
        an_entry_takes_attempts_until_it_is_settled_and_is_found_after_a_restart,
        the_outbox_does_what_every_outbox_must,
    }
    payments {
        the_record_does_what_every_record_must,
        a_payment_for_one_thing_buys_no_other,
        a_validity_of_more_than_64_bits_is_refused_and_nothing_is_recorded,
        what_was_answered_is_so_after_a_restart,
        fault_2_9_an_authorization_that_pays_a_fee_buys_no_request_and_the_other_way_round,
        fault_2_9_of_both_at_once_one_takes_the_authorization,
        fault_2_9_what_was_paid_is_known_after_a_restart_and_until_no_token_takes_it,
    }
    pods {
        a_pod_keeps_id_prices_and_history_from_run_to_run,
        of_fifty_concurrent_starts_of_one_pod_one_is_granted,
        of_fifty_holders_who_choose_one_id_one_has_it_and_the_others_spend_no_slot,
        nobody_starts_or_learns_of_another_holders_pod,
        a_removed_pod_leaves_usage_and_its_id_which_its_holder_alone_may_take_again,
        a_removal_that_comes_while_data_is_set_aside_is_not_forgotten,
        a_full_quota_refuses_a_new_pod_names_what_could_go_and_starts_what_is_there,
        old_runs_are_forgotten_but_the_last_of_a_pod_is_not,
    }
    prune {
        spent_messages_go_only_when_nobody_could_accept_them,
        forgetting_takes_small_bites_and_says_when_there_is_more,
        a_forgotten_run_leaves_its_usage_and_nothing_else,
    }
    relays {
        the_journal_does_what_every_journal_must,
        a_step_that_is_not_allowed_changes_no_column,
    }
}
